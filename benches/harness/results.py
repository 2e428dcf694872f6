"""Files that runs write: they belong to whoever owns their directory, not to root."""

import os
import re


def save(path, text):
    """Writes a whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    hand_over(path)


def hand_over(path):
    """Makes a file its directory's owner's."""
    owner = path.parent.stat()
    os.chown(path, owner.st_uid, owner.st_gid)


def save_part(path, heading, text):
    """Writes the part of a file that begins with a first-level heading; the parts
    that other runs wrote stay as they are."""
    known = path.read_text() if path.is_file() else ""
    parts = re.split(r"(?m)^(?=# )", known)
    others = [part.strip() for part in parts if part.strip() and not part.startswith(f"# {heading}\n")]
    # The proxies' part comes first.
    position = 0 if heading == "Results" else len(others)
    others.insert(position, text.strip())
    save(path, "\n\n".join(others) + "\n")
