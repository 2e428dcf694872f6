"""Container images without a container engine.

An image in docker-archive form is a tar of a layer tar, a JSON configuration
and a JSON manifest. What is written depends on the contents alone: entries are
sorted, owned by root and of one time, so the same files give the same bytes.
"""

import dataclasses
import hashlib
import io
import json
import pathlib
import platform
import posixpath
import subprocess
import tarfile

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class ImageError(Exception):
    """Why an image can't be made, in words for whoever asked for it."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One file, symbolic link or folder of a layer."""

    kind: bytes
    mode: int
    content: bytes = b""
    target: str = ""


class Layer:
    """The file system of an image."""

    def __init__(self):
        self._entries = {}

    def folder(self, path, mode=0o755):
        """Adds a folder."""
        self._add(path, Entry(tarfile.DIRTYPE, mode))

    def text(self, path, content):
        """Adds a readable file of this content."""
        self._add(path, Entry(tarfile.REGTYPE, 0o644, content=content.encode()))

    def copy(self, source, path=None, mode=0o755):
        """Adds a copy of a file of this machine, by default at the same path."""
        content = pathlib.Path(source).read_bytes()
        self._add(path or source, Entry(tarfile.REGTYPE, mode, content=content))

    def link(self, path, target):
        """Adds a symbolic link."""
        self._add(path, Entry(tarfile.SYMTYPE, 0o777, target=target))

    def binary(self, source, path=None):
        """Adds a binary and the shared libraries that it loads."""
        self.copy(source, path)
        for library in shared_libraries(source):
            self.copy(library)

    def tar(self):
        """The layer as the bytes of a tar."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for path, entry in sorted(self._entries.items()):
                member = tarfile.TarInfo(path)
                member.type = entry.kind
                member.mode = entry.mode
                member.linkname = entry.target
                member.size = len(entry.content)
                tar.addfile(member, io.BytesIO(entry.content))
        return buffer.getvalue()

    def _add(self, path, entry):
        name = posixpath.normpath(str(path)).lstrip("/")
        parent = posixpath.dirname(name)
        if parent and parent not in self._entries:
            self.folder(parent)
        self._entries[name] = entry


def shared_libraries(binary):
    """Paths of the libraries that a binary loads, its loader included."""
    answer = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        static = "not a dynamic executable" in answer.stderr + answer.stdout
        if static:
            return []
        raise ImageError(f"ldd {binary}: {answer.stderr.strip()}")
    paths = []
    for line in answer.stdout.splitlines():
        name, _, rest = line.strip().partition(" => ")
        path = (rest or name).split(" (")[0]
        if path == "not found":
            raise ImageError(f"{binary} needs {name}, which is not on this machine")
        if path.startswith("/"):
            paths.append(path)
    return paths


def write(destination, names, layer, config):
    """Writes an image of one layer, under all of these names."""
    layer_tar = layer.tar()
    diff_id = hashlib.sha256(layer_tar).hexdigest()
    image = json.dumps(
        {
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
            "config": config,
            "created": "1970-01-01T00:00:00Z",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}"]},
        },
        sort_keys=True,
    ).encode()
    config_name = f"{hashlib.sha256(image).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": list(names), "Layers": [f"{diff_id}/layer.tar"]}]

    destination = pathlib.Path(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = destination.with_suffix(".partial")
    with tarfile.open(partial, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in [
            (f"{diff_id}/layer.tar", layer_tar),
            (config_name, image),
            ("manifest.json", json.dumps(manifest).encode()),
        ]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    partial.rename(destination)


def names(archive):
    """The names that an archive's image goes by."""
    with tarfile.open(archive) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))
    return [name for image in manifest for name in image["RepoTags"]]
