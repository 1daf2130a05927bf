"""Debian packages of prompts, small ones."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path


def tar(files: dict[str, bytes], kind: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{kind}") as archive:
        folder = tarfile.TarInfo("./usr")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def package(path: Path, files: dict[str, bytes], kind: str = "xz", **fields: str) -> Path:
    """Write a package as deb(5) describes it."""
    fields = {"Package": path.name.split("_")[0], "Version": "1:2.0-1", **fields}
    control = "".join(f"{name}: {value}\n" for name, value in fields.items())
    members = {
        "debian-binary": b"2.0\n",
        f"control.tar.{kind}": tar({"./md5sums": b"", "./control": control.encode()}, kind),
        f"data.tar.{kind}": tar(files, kind),
    }
    data = b"!<arch>\n"
    for name, content in members.items():
        data += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        data += content + b"\n" * (len(content) % 2)
    path.write_bytes(data)
    return path


def prompt_packages(root: Path, folder: Path) -> dict[str, dict[str, str]]:
    """Write packages of English and Italian prompts in ``root``; return what is known of them."""
    contents = {
        f"asterisk-core-sounds-{language}": f"usr/share/doc/asterisk-core-sounds-{language}"
        for language in ("en", "it")
    }
    contents |= {
        "asterisk-core-sounds-en-wav": "usr/share/asterisk/sounds/en_US_f_Allison",
        "asterisk-core-sounds-it-wav": "usr/share/asterisk/sounds/it_IT_m_Carlo",
    }
    known = {}
    for name, below in contents.items():
        files = {
            f"./{path.relative_to(root).as_posix()}": path.read_bytes()
            for path in (root / below).rglob("*")
            if path.is_file()
        }
        path = package(folder / f"{name}_1%3a2.0-1_all.deb", files)
        known[name] = {
            "version": "1:2.0-1",
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
    return known
