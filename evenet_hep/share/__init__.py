"""Files that come with the package: a small network, four small NanoAOD files, real dimuons, and event grammars."""

from __future__ import annotations

from pathlib import Path

from evenet_hep.errors import CheckpointError, FileError

_HERE = Path(__file__).parent

CHECKPOINT_FILES = ("config.json", "schema.json", "model.safetensors")

# Data set name -> file. Origins and licences are in nanoaod/README.md.
SAMPLES = {
    "ttbar MC": "nano_tt_v12.root",
    "W+jets MC": "nano_2015_wjets.root",
    "Drell-Yan MC": "nano_dy.root",
    "DoubleMuon data": "nano_dimuon.root",
}


def sample_files() -> dict[str, Path]:
    """The NanoAOD files that come with the package, by data set name.

    Examples
    --------
    >>> [path.name for path in sample_files().values()]
    ['nano_tt_v12.root', 'nano_2015_wjets.root', 'nano_dy.root', 'nano_dimuon.root']
    """
    return {name: _HERE / "nanoaod" / file for name, file in SAMPLES.items()}


def dimuon_file() -> Path:
    """20 000 muon pairs of CMS around the Upsilon; origin and licence are in collisions/README.md.

    Examples
    --------
    >>> dimuon_file().name
    'dimuon_2011.parquet'
    """
    return _HERE / "collisions" / "dimuon_2011.parquet"


def find_checkpoint(name: str | Path) -> Path:
    """The folder of a checkpoint: the path itself, or the network of that name that comes with the package.

    Raises
    ------
    CheckpointError
        If there is no such folder, or a file is missing in it.

    Examples
    --------
    >>> find_checkpoint("demo").name
    'demo'
    """
    folder = Path(name)
    missing = [file for file in CHECKPOINT_FILES if not (folder / file).is_file()]
    if missing:
        shipped = {path.name: path for path in (_HERE / "models").iterdir() if path.is_dir()}
        if str(name) in shipped:
            return shipped[str(name)].resolve()
        if folder.is_dir():
            msg = f"{folder} is not a checkpoint: it lacks {', '.join(missing)}"
        else:
            names = ", ".join(sorted(shipped))
            msg = f"{str(name)!r} is neither a folder nor a network that comes with the package ({names})"
        raise CheckpointError(msg)
    return folder.resolve()


def topology_file(name: str) -> Path:
    """The YAML file of an event grammar that comes with the package.

    Raises
    ------
    FileError
        If there is none of that name.

    Examples
    --------
    >>> topology_file("bbww").name
    'bbww.yaml'
    """
    shipped = {path.stem: path for path in (_HERE / "topologies").glob("*.yaml")}
    if name not in shipped:
        msg = f"no event grammar {name!r} comes with the package; there are {', '.join(sorted(shipped))}"
        raise FileError(msg)
    return shipped[name]


def simulation_plan(name: str) -> Path:
    """Path of a plan for ``evenet-hep simulate`` that comes with the package.

    Parameters
    ----------
    name : str
        ``all``, ``pretraining``, or an analysis: ``bbww_resonance``, ``higgs_to_4b``, ``ttbar_spin``.

    Returns
    -------
    Path
        A YAML file.

    Raises
    ------
    FileError
        For any other name.

    Examples
    --------
    >>> simulation_plan("all").name
    'all.yaml'
    """
    folder = Path(__file__).parent / "plans"
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in names:
        msg = f"there is no plan {name!r}; plans are {', '.join(names)}"
        raise FileError(msg)
    return folder / f"{name}.yaml"
