"""Reads files of a wheel in the package registry without downloading the whole wheel."""

import ast
import io
import json
import subprocess
import sys
import urllib.request
import zipfile

import pytest

NO_REGISTRY = "(from versions: none)"
"""What pip says where no registry answers; of a registry that lacks the version it lists the other versions."""
TIMEOUT_SECONDS = 60


class RangedFile(io.RawIOBase):
    """A file on an HTTP server, of which only what is read is sent (RFC 9110, section 14)."""

    def __init__(self, url: str) -> None:
        self._url, self._position = url, 0
        with self._open("bytes=0-0") as answer:
            self._size = int(answer.headers["Content-Range"].rpartition("/")[2])
        self.num_sent_bytes = 0

    def _open(self, range_: str):  # type: ignore[no-untyped-def]
        request = urllib.request.Request(self._url, headers={"Range": range_})
        return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        end = min(self._position + len(buffer), self._size)
        if end <= self._position:
            return 0
        with self._open(f"bytes={self._position}-{end - 1}") as answer:
            data = answer.read()
        buffer[: len(data)] = data
        self._position += len(data)
        self.num_sent_bytes += len(data)
        return len(data)


class Wheel:
    """A wheel in the registry."""

    def __init__(self, requirement: str) -> None:
        """Find the wheel that pip would install for this machine. Skips the test where no registry answers."""
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", "--no-deps"]
        command += ["--only-binary", ":all:", "--use-feature", "fast-deps", "--report", "-", requirement]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode != 0:
            if NO_REGISTRY in done.stderr:
                pytest.skip(f"no package registry has {requirement} here, or none answers")
            pytest.fail(f"pip finds no {requirement}: {done.stderr[-2000:]}", pytrace=False)
        [found] = json.loads(done.stdout)["install"]
        self.version: str = found["metadata"]["version"]
        self.file = RangedFile(found["download_info"]["url"])
        self._zip = zipfile.ZipFile(io.BufferedReader(self.file, 2**16))

    def checksums(self) -> dict[str, int]:
        """Return the CRC-32 of every Python file, which the wheel's directory has."""
        return {file.filename: file.CRC for file in self._zip.infolist() if file.filename.endswith(".py")}

    def tree(self, name: str) -> ast.Module:
        """Return the syntax tree of a Python file; nothing of it is run."""
        return ast.parse(self._zip.read(name))


def class_named(tree: ast.Module, name: str) -> ast.ClassDef:
    [found] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    return found


def method(of: ast.ClassDef, name: str) -> ast.FunctionDef:
    [found] = [node for node in of.body if isinstance(node, ast.FunctionDef) and node.name == name]
    return found


def methods(of: ast.ClassDef) -> set[str]:
    return {node.name for node in of.body if isinstance(node, ast.FunctionDef)}


def parameters(of: ast.FunctionDef) -> set[str]:
    return {argument.arg for argument in (*of.args.posonlyargs, *of.args.args, *of.args.kwonlyargs)}


def fields(of: ast.ClassDef) -> set[str]:
    """Return the annotated names of a class, which are the fields of a dataclass or struct."""
    return {node.target.id for node in of.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}


def own_attributes(of: ast.ClassDef) -> set[str]:
    """Return the names that the class's methods assign to self."""
    return {
        node.attr
        for node in ast.walk(of)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
    }


def texts(of: ast.AST) -> set[str]:
    """Return the string constants."""
    return {node.value for node in ast.walk(of) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def keywords_by_call(tree: ast.Module) -> dict[str, set[str]]:
    """Return, for everything that is called, by its text, the names of the arguments."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found.setdefault(ast.unparse(node.func), set()).update(word.arg for word in node.keywords if word.arg)
    return found
