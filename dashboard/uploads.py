"""Traces of the user's own: read when they are uploaded, kept while the server runs."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import streamlit as st

from dashboard.edge import attempt
from dashboard.panels.shown import plain
from dashboard.session import form_key, session, upload_key
from simulator.errors import WorkloadError

#: Largest file that is taken [MB].
_MOST_MB = 200
#: Longest name that is taken [bytes]; file systems end at 255.
_LONGEST_NAME = 200
#: Files that a server keeps; more would fill its disk.
_MOST_FILES = 64
#: Characters of a name that are shown.
_SHOWN = 60


class Uploads:
    """Files by the scenario key that may name them, in a folder that goes when the server does."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._known: dict[str, tuple[str, ...]] = {}

    def keep(self, key: str, name: str, content: bytes, read: Callable[[Path], object]) -> str:
        """Write a file that can be read, and return its path; the same content has the same path.

        What cannot be read, for whatever reason, is gone when this ends.

        Parameters
        ----------
        key : str
            Scenario key that may then name the file.
        name : str
            What the user calls it; only its last part is kept.
        content : bytes
            What it holds.
        read : callable
            Reads it as the scenario would, or raises.

        Raises
        ------
        MoesimError
            It cannot be read.
        """
        own = Path(name).name
        if own in ("", "..") or len(own.encode(errors="replace")) > _LONGEST_NAME or not own.isprintable():
            msg = f"the file's name should be of 1 to {_LONGEST_NAME} bytes that can be printed: rename it"
            raise WorkloadError(msg)
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="moesim-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        folder = self._folder / hashlib.sha256(content).hexdigest()[:12] / key
        file = folder / own
        if str(file) in self.of(key):
            return str(file)
        if sum(map(len, self._known.values())) >= _MOST_FILES:
            msg = f"this server keeps {_MOST_FILES} files and has them; start it anew to upload others"
            raise WorkloadError(msg)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file.write_bytes(content)
            read(file)
        except BaseException:
            file.unlink(missing_ok=True)
            raise
        self._known[key] = (*self.of(key), str(file))
        return str(file)

    def without_folder(self, words: str) -> str:
        """Return a message that names files as the user does, not where they are kept here."""
        return re.sub(rf"{re.escape(str(self._folder))}/\w+/[\w.]+/", "", words) if self._folder else words

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

    Parameters
    ----------
    key : str
        Scenario key that the file is for.
    label : str
        What is written over the widget.
    read : callable
        Reads a file as the scenario would, or raises.
    offered : sequence of str
        Options besides.
    """
    given = st.file_uploader(label, key=upload_key(key), max_upload_size=_MOST_MB, help="stays on this machine")
    if given is not None:
        name = Path(given.name).name[:_SHOWN]
        path, wrong = attempt(partial(uploads().keep, key, given.name, given.getvalue(), read), name)
        for finding in wrong:
            said = uploads().without_folder(finding.message)
            st.error(plain(said if said.startswith(name) else f"{name}: {said}"), icon=":material/error:")
        if path is not None and session().uploaded.get(key) != path:
            session().uploaded[key] = st.session_state[form_key(key)] = path
    return tuple(dict.fromkeys((*uploads().of(key), *offered)))
