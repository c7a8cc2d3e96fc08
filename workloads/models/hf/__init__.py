"""The config.json files of Hugging Face."""
