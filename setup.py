"""Where the packages lie; all else that a build must know is in pyproject.toml.

gatefuse/kernels, gatefuse/models and gatefuse/bench are links to the top-level folders of those names. A clone without
symbolic links (git's core.symlinks=false, or an archive unpacked by something that knows none) has small text files in
their place, or nothing. There the folders themselves are given, so that no build comes out without them.
"""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
LINKED = ("kernels", "models", "bench")

packages = find_packages(str(ROOT), include=["gatefuse", "gatefuse.*"])
package_dir = {}
for name in LINKED:
    if f"gatefuse.{name}" in packages:
        continue
    if not (ROOT / name / "__init__.py").is_file():
        raise FileNotFoundError(
            f"gatefuse/{name} must be a link to the folder {name}/, or that folder be there. Got neither."
        )
    package_dir[f"gatefuse.{name}"] = name
    packages += [f"gatefuse.{name}", *(f"gatefuse.{name}.{inner}" for inner in find_packages(str(ROOT / name)))]

setup(packages=packages, package_dir=package_dir)
