"""Which code made something: a digest of the library's own sources, the same in a checkout and in a wheel."""

import hashlib
from functools import cache
from pathlib import Path


@cache
def code_revision() -> str:
    """First 12 hex digits of the digest of every Python file of feature_store, jobs and models."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for package in ("feature_store", "jobs", "models"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@cache
def source_digest(*modules: str) -> str:
    """Digest of the source of some modules (dotted names): a transform's own code, so that only its change makes it run again."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for module in modules:
        digest.update((root / (module.replace(".", "/") + ".py")).read_bytes())
    return digest.hexdigest()[:16]
