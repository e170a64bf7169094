"""A package index on loopback (PEP 503), as pip reads it, that counts the bytes it serves.

Its packages are made up: wheels of noise, and sources of extensions in C. Answers carry what PyPI's
do: files may be kept for ever, pages for ten minutes, and both have an ETag.
"""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SETUP = """\
from setuptools import Extension, setup
setup(name={0!r}, version="1.0", ext_modules=[Extension("_{0}", ["{0}.c"])])
"""
MODULE = """\
#include <Python.h>
static PyMethodDef methods[] = {{{{NULL}}}};
static struct PyModuleDef module = {{PyModuleDef_HEAD_INIT, "_{0}", NULL, -1, methods}};
PyMODINIT_FUNC PyInit__{0}(void) {{ return PyModule_Create(&module); }}
"""
FUNCTION = """\
double g{0}(double *a, int n) {{ double s = {0}; for (int i = 0; i < n; i++)
for (int j = i; j < n; j++) {{ s += a[i] * a[j] - s / {1}; a[j] = s * (i + {1}); }} return s; }}
"""


def wheel(name: str, size: int) -> bytes:
    """A wheel with `size` bytes that do not compress."""
    content = io.BytesIO()
    info = f"{name}-1.0.dist-info"
    members = {
        f"{name}/__init__.py": b"",
        f"{name}/data": random.Random(name).randbytes(size),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    members[f"{info}/RECORD"] = "".join(
        f"{path},,\n" for path in (*members, f"{info}/RECORD")
    ).encode()
    with zipfile.ZipFile(content, "w") as archive:
        for path, data in members.items():
            archive.writestr(path, data)
    return content.getvalue()


def sources(name: str, functions: int) -> bytes:
    """A source distribution whose extension takes a while to compile."""
    code = MODULE.format(name) + "".join(
        FUNCTION.format(one, one % 7 + 1) for one in range(functions)
    )
    files = {
        "setup.py": SETUP.format(name),
        f"{name}.c": code,
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
    }
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for path, text in files.items():
            member = tarfile.TarInfo(f"{name}-1.0/{path}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return content.getvalue()


class Index:
    """What is served, by file name, and how much of it was."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.names = sorted(file.partition("-")[0] for file in files)
        self._answers = {f"/files/{file}": content for file, content in files.items()}
        for file, content in files.items():
            digest = hashlib.sha256(content).hexdigest()
            link = f'<!DOCTYPE html><a href="/files/{file}#sha256={digest}">{file}</a>\n'
            self._answers[f"/simple/{file.partition('-')[0]}/"] = link.encode()
        self._lock = threading.Lock()
        self._served = 0
        self.url = ""

    def served(self) -> int:
        """The bytes of bodies since the last call."""
        with self._lock:
            served, self._served = self._served, 0
        return served

    def answer(self, path: str, known: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for who has the version `known` of `path`."""
        content = self._answers.get(path)
        if content is None:
            return 404, {}, b""
        kept = (
            "max-age=600, public"
            if path.startswith("/simple/")
            else "max-age=365000000, immutable, public"
        )
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        headers = {"ETag": tag, "Cache-Control": kept, "Content-Type": "text/html"}
        if path.startswith("/files/"):
            headers["Content-Type"] = "application/octet-stream"
        if known == tag:
            return 304, headers, b""
        with self._lock:
            self._served += len(content)
        return 200, headers, content


@contextmanager
def indexing(wheels: int, wheel_size: int, extensions: int, functions: int) -> Iterator[Index]:
    """An index of so many packages of each kind."""
    files = {
        f"wheel{n}-1.0-py3-none-any.whl": wheel(f"wheel{n}", wheel_size) for n in range(wheels)
    }
    files |= {f"source{n}-1.0.tar.gz": sources(f"source{n}", functions) for n in range(extensions)}
    index = Index(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, body = index.answer(self.path, self.headers.get("If-None-Match", ""))
            self.send_response(status)
            for name, text in headers.items():
                self.send_header(name, text)
            if status != 304:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *words: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        index.url = f"http://127.0.0.1:{server.server_address[1]}/simple"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield index
        finally:
            server.shutdown()
            thread.join()
