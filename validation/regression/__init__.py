"""Has any prediction moved?"""
