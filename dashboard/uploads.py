"""Traces of the user's own: read when they are uploaded, kept while the server runs."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import streamlit as st

from simulator.errors import MoesimError

#: Largest file that is taken [MB].
_MOST_MB = 200


class Uploads:
    """Files by the scenario key that may name them, in a folder that goes when the server does."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._known: dict[str, tuple[str, ...]] = {}

    def keep(self, key: str, name: str, content: bytes, read: Callable[[Path], object]) -> str:
        """Write a file that can be read, and return its path; the same content has the same path.

        Raises
        ------
        MoesimError
            It cannot be read.
        """
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="moesim-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        folder = self._folder / hashlib.sha256(content).hexdigest()[:12]
        file = folder / Path(name).name
        if str(file) in self.of(key):
            return str(file)
        folder.mkdir(exist_ok=True)
        file.write_bytes(content)
        try:
            read(file)
        except MoesimError:
            file.unlink()
            raise
        self._known[key] = (*self.of(key), str(file))
        return str(file)

    def of(self, key: str) -> tuple[str, ...]:
        """List the files that a key may name."""
        return self._known.get(key, ())


@st.cache_resource(show_spinner=False)
def uploads() -> Uploads:
    """Return the files of this server."""
    return Uploads()


def offer_upload(key: str, label: str, read: Callable[[Path], object], offered: Sequence[str]) -> tuple[str, ...]:
    """Draw where a file can be dropped, and return the options with what was uploaded in front.

    A new file is chosen at once; what cannot be read is said below it and changes nothing.
    """
    given = st.file_uploader(label, key=f"upload.{key}", max_upload_size=_MOST_MB, help="stays on this machine")
    if given is not None:
        try:
            path = uploads().keep(key, given.name, given.getvalue(), read)
        except MoesimError as error:
            st.error(_said(error, given.name), icon=":material/error:")
        else:
            if st.session_state.get(f"uploaded.{key}") != path:
                st.session_state[f"uploaded.{key}"] = st.session_state[f"form.{key}"] = path
    return tuple(dict.fromkeys((*uploads().of(key), *offered)))


def _said(error: MoesimError, name: str) -> str:
    """Return a message that names the file as the user does, not the folder in which it is kept here."""
    words = str(error)
    head, found, tail = words.partition(f"/{name}")
    return f"{name}{tail}" if found and head.startswith("/") else words
