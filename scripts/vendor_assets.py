"""Fetch the two scripts that the book's pages need, at pinned versions, and prove each byte by its checksum.

    python scripts/vendor_assets.py            # fetch with `npm pack`, verify, write book/web/vendor/
    python scripts/vendor_assets.py --check    # verify what is there; needs no network

The files are committed: a clone builds and a page opens without npm and without a network. MathJax 3 (Apache-2.0) sets
the formulas; plotly.js, basic bundle (MIT), draws the explorers. Its version is the one that the installed plotly
speaks, `plotly.offline.get_plotlyjs_version()`; tests/pages/test_vendor.py holds the two together.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VENDOR = Path(__file__).resolve().parent.parent / "book" / "web" / "vendor"
SUMS = VENDOR / "SHA256SUMS.json"

# package: version, checksum of its archive, and which of its files go where
PACKAGES = {
    "mathjax": {
        "version": "3.2.2",
        "sha256": "1b9c0a1c44df864e915690558e72adb9cc5203360daefd385084ced3b6c64c09",
        "files": {
            "es5/tex-chtml-full.js": "mathjax/tex-chtml-full.js",
            "es5/output/chtml/fonts/woff-v2/": "mathjax/output/chtml/fonts/woff-v2/",
            "LICENSE": "mathjax/LICENSE",
        },
    },
    "plotly.js-basic-dist-min": {
        "version": "4.1.1",
        "sha256": "ea907f854b6cec4f6a2fa71540ec019a21ed2c61e6a109ddd5c072103a96eed0",
        "files": {"plotly-basic.min.js": "plotly/plotly-basic.min.js", "LICENSE": "plotly/LICENSE"},
    },
}


def sha256(content: bytes) -> str:
    """The checksum of ``content`` in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def problems(folder: Path = VENDOR) -> list[str]:
    """What is missing, changed or foreign in the vendored folder; empty when every byte is as pinned."""
    wanted = json.loads((folder / SUMS.name).read_text())
    found = {
        str(path.relative_to(folder)): sha256(path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != SUMS.name
    }
    missing = [f"{name} is missing" for name in wanted if name not in found]
    foreign = [f"{name} is not listed in {SUMS.name}" for name in found if name not in wanted]
    changed = [f"{name} differs from its checksum" for name in wanted if found.get(name, wanted[name]) != wanted[name]]
    return missing + foreign + changed


def fetch(package: str, version: str, checksum: str, folder: Path) -> Path:
    """Download one npm archive into ``folder``; stop unless its checksum is the pinned one."""
    command = ["npm", "pack", f"{package}@{version}", "--silent", "--pack-destination", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    archive = folder / f"{package}-{version}.tgz"
    actual = sha256(archive.read_bytes())
    if actual != checksum:
        sys.exit(
            f"{package} {version}: the archive's sha256 is {actual}, but {checksum} is pinned; nothing was written"
        )
    return archive


def chosen(content: tarfile.TarFile, files: dict[str, str]) -> list[tuple[tarfile.TarInfo, str]]:
    """The archive's members that ``files`` asks for (a name, or a folder ending in "/"), each with its place."""
    found = []
    for member in content.getmembers():
        name = member.name.removeprefix("package/")
        for source, target in files.items():
            if member.isfile() and (name == source or (source.endswith("/") and name.startswith(source))):
                found.append((member, target + name.removeprefix(source)))
    return found


def unpack(content: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> str:
    """Write one member to its place under the vendored folder; returns its checksum."""
    data = content.extractfile(member).read()
    target = VENDOR / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return sha256(data)


def main() -> int:
    """Fetch and write, or check; 0 when all is as pinned."""
    parser = argparse.ArgumentParser(description="Fetch or verify the scripts that the book's pages load.")
    parser.add_argument("--check", action="store_true", help="verify only, without a network")
    if not parser.parse_args().check:
        sums = {}
        with tempfile.TemporaryDirectory() as temporary:
            for package, pin in PACKAGES.items():
                archive = fetch(package, pin["version"], pin["sha256"], Path(temporary))
                with tarfile.open(archive) as content:
                    sums |= {name: unpack(content, member, name) for member, name in chosen(content, pin["files"])}
        SUMS.write_text(json.dumps(dict(sorted(sums.items())), indent=2) + "\n")
    found = problems()
    print("\n".join(found) or f"{VENDOR.name}/: every file is as pinned")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
