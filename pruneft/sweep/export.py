"""A run in other programs' formats: a row per trial as CSV or Parquet, the summary as netCDF or Zarr.

A file is written beside its target and takes the target's name only when it is whole, so a process that is killed
leaves nothing under that name. Trials stream through: memory does not grow with their number.
"""

from __future__ import annotations

import csv
import importlib.util
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pruneft.sweep._columns import Column
from pruneft.sweep._target import ExportError, replacing
from pruneft.sweep.ledger import Ledger
from pruneft.sweep.summary import status_name, summary

if TYPE_CHECKING:
    import pyarrow

FORMATS = ("csv", "parquet", "netcdf", "zarr")
_CHUNK = 20_000  # trials at a time
_GROUP = 200_000  # trials in a row group of a Parquet file

OnRows = Callable[[int], None]


def _quiet(rows: int) -> None:
    """Nobody wants to know."""


class Exported(NamedTuple):
    """What an export wrote.

    Attributes:
      path: where.
      rows: how many trials, or points of the summary.
      columns: names of the table's columns, or of the summary's variables.
    """

    path: Path
    rows: int
    columns: tuple[str, ...]


def export(
    ledger: Ledger | str | Path,
    out: str | Path,
    *,
    format: str,
    force: bool = False,
    of: Sequence[str] = (),
    on_rows: OnRows = _quiet,
) -> Exported:
    """Write a run in one of `FORMATS`; see the function of each.

    Args:
      ledger: an open one, or the file's path.
      out: the file, a directory for zarr.
      format: "csv", "parquet", "netcdf" or "zarr".
      force: replace an earlier export of this format. Anything else that is there is never replaced.
      of: for netcdf and zarr, reported numbers to give medians and means of.
      on_rows: for csv and parquet, called now and then with the number of trials written so far.

    Raises:
      ExportError: there is something at ``out``, its directory does not exist, or the disk refuses.
      ImportError: a package is missing; the message says how to get it.
      LedgerError: the ledger cannot be read.
      ValueError: the format is unknown, or ``of`` does not fit it.
    """
    if format not in FORMATS:
        raise ValueError(f"the format is one of {', '.join(FORMATS)}: got {format!r}.")
    if not isinstance(ledger, Ledger):
        with Ledger.open(ledger, read_only=True) as opened:
            return export(opened, out, format=format, force=force, of=of, on_rows=on_rows)
    if format in ("csv", "parquet"):
        if of:
            raise ValueError(
                f"medians of {', '.join(of)} belong to a summary (netcdf, zarr): {format} holds the trials."
            )
        write = export_csv if format == "csv" else export_parquet
        return write(ledger, out, force=force, on_rows=on_rows)
    return (export_netcdf if format == "netcdf" else export_zarr)(ledger, out, force=force, of=of)


def export_csv(ledger: Ledger, out: str | Path, *, force: bool = False, on_rows: OnRows = _quiet) -> Exported:
    """Write a row per trial as CSV, by cell and seed.

    The columns are the cell's axes, ``seed``, ``status`` (number), ``status_name``, and every scalar that any trial
    reported. What a trial did not report, or an axis left to the experiment, is empty; truth values are ``true`` and
    ``false``, NaN and infinities ``nan``, ``inf``, ``-inf``. UTF-8.
    """
    with replacing(out, "csv", force=force) as part, ledger.snapshot() as snapshot:
        axes, reported = snapshot.axes, snapshot.reported
        names = _header(axes, reported)
        front = {number: [_text(cell.get(axis)) for axis in axes] for number, cell in snapshot.cells.items()}
        statuses = _StatusNames()
        written = 0
        with open(part, "w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(names)
            for chunk in _chunks(snapshot.trials([_csv_sql(columns) for columns in reported.values()])):
                table.writerows(
                    [*front[number], seed, status, statuses[status], *values] for number, seed, status, *values in chunk
                )
                written += len(chunk)
                on_rows(written)
    return Exported(Path(out), written, names)


def export_parquet(ledger: Ledger, out: str | Path, *, force: bool = False, on_rows: OnRows = _quiet) -> Exported:
    """Write the table of `export_csv` as Parquet (zstd), with the type of each column the same in every part of the file.

    Whole numbers are int64, numbers float64, truth values bool, the rest text; a name reported with several kinds takes
    the one that holds them all. Null is what was not reported, and is not NaN. The file's metadata hold ``experiment``
    and ``manifest``.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError("Parquet files need pyarrow: python -m pip install 'pruneft[export]'") from error
    with replacing(out, "parquet", force=force) as part, ledger.snapshot() as snapshot:
        axes, reported = snapshot.axes, snapshot.reported
        names = _header(axes, reported)
        places = {number: place for place, number in enumerate(snapshot.cells)}
        fronts = [_axis_array([cell.get(axis) for cell in snapshot.cells.values()]) for axis in axes]
        kinds = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "str": pa.string()}
        types = [kinds[_widest(columns)] for columns in reported.values()]
        middle = [pa.int64(), pa.int64(), pa.string()]
        schema = pa.schema(
            list(zip(names, [*(front.type for front in fronts), *middle, *types], strict=True)),
            metadata={"experiment": ledger.experiment or "", "manifest": json.dumps(ledger.manifest)},
        )
        readers = [_reader(columns) for columns in reported.values()]
        statuses = _StatusNames()
        written = 0
        queries = [column.sql for columns in reported.values() for column in columns]
        with open(part, "wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as table:
            waiting: list[Any] = []
            for chunk in _chunks(snapshot.trials(queries)):
                numbers, seeds, codes, *stored = zip(*chunk, strict=True)
                cells = pa.array([places[number] for number in numbers], pa.int64())
                arrays = [front.take(cells) for front in fronts]
                arrays += [pa.array(seeds, pa.int64()), pa.array(codes, pa.int64())]
                arrays.append(pa.array([statuses[code] for code in codes], pa.string()))
                rest = iter(stored)
                for columns, reader, kind in zip(reported.values(), readers, types, strict=True):
                    arrays.append(pa.array(reader(*(next(rest) for _ in columns)), kind))
                waiting.append(pa.record_batch(arrays, schema=schema))
                written += len(chunk)
                if sum(batch.num_rows for batch in waiting) >= _GROUP:
                    table.write_table(pa.Table.from_batches(waiting), row_group_size=_GROUP)
                    waiting = []
                on_rows(written)
            if waiting:
                table.write_table(pa.Table.from_batches(waiting), row_group_size=_GROUP)
    return Exported(Path(out), written, names)


def export_netcdf(ledger: Ledger, out: str | Path, *, force: bool = False, of: Sequence[str] = ()) -> Exported:
    """Write the summary (`pruneft.sweep.summary`) as netCDF-4.

    Raises:
      ValueError: as `summary` does.
    """
    if None in map(importlib.util.find_spec, ("h5netcdf", "h5py")):
        raise ImportError("netCDF files need h5netcdf: python -m pip install 'pruneft[export]'")
    with replacing(out, "netcdf", force=force) as part:
        data = summary(ledger, of=of)
        # By way of memory: HDF5 does not get over a full disk, and a summary is small.
        part.write_bytes(data.to_netcdf(engine="h5netcdf"))
    return Exported(Path(out), int(data["trials"].size), tuple(map(str, data.data_vars)))


def export_zarr(ledger: Ledger, out: str | Path, *, force: bool = False, of: Sequence[str] = ()) -> Exported:
    """Write the summary (`pruneft.sweep.summary`) as a Zarr directory, format 3.

    Raises:
      ValueError: as `summary` does.
    """
    try:
        import zarr  # noqa: F401
    except ImportError as error:
        raise ImportError("Zarr directories need zarr: python -m pip install 'pruneft[export]'") from error
    with replacing(out, "zarr", force=force) as part:
        data = summary(ledger, of=of)
        # Names as objects become text of variable length; that of fixed length is no part of format 3.
        texts = {name: each.astype(object) for name, each in data.coords.items() if each.dtype.kind == "U"}
        data.assign_coords(texts).to_zarr(part, mode="w", zarr_format=3, consolidated=False)
    return Exported(Path(out), int(data["trials"].size), tuple(map(str, data.data_vars)))


class _StatusNames(dict[int, str]):
    def __missing__(self, code: int) -> str:
        self[code] = name = status_name(code)
        return name


def _header(axes: Sequence[str], reported: dict[str, list[Column]]) -> tuple[str, ...]:
    if clash := [name for name in reported if name in axes]:
        raise ExportError(
            f"{', '.join(clash)}: an axis of some cells and a reported name of others, so no table can hold both. Rename "
            "one in the experiment."
        )
    return (*axes, "seed", "status", "status_name", *reported)


def _chunks(rows: Iterator[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    while chunk := list(itertools.islice(rows, _CHUNK)):
        yield chunk


def _text(value: Any) -> Any:
    return ("false", "true")[value] if isinstance(value, bool) else value


def _csv_sql(columns: Sequence[Column]) -> str:
    """SQL for what stands in the CSV; Python then only strings values together."""
    forms = {
        "bool": "case {0} when 1 then 'true' when 0 then 'false' end",
        "float": "case when typeof({0}) = 'blob' then 'nan' else {0} end",
        "none": "null",
    }
    found = [forms.get(column.kind, "{0}").format(column.sql) for column in columns]
    return f"coalesce({', '.join(found)})" if len(found) > 1 else found[0]


def _widest(columns: Sequence[Column]) -> str:
    kinds = {column.kind for column in columns} - {"none"}
    for kind in ("str", "float", "int", "bool"):
        if kind in kinds:
            return kind
    return "float"


def _reader(columns: Sequence[Column]) -> Callable[..., list[Any]]:
    """Stored values of a name's columns -> values of the type of `_widest`, None where there is none."""
    convert: dict[str, Callable[[Any], Any]] = {"int": int, "float": float, "bool": bool, "str": str}
    final = convert[_widest(columns)]
    if len(columns) == 1:
        (only,) = columns
        if only.kind in ("int", "str"):
            return list
        if only.kind == "float":
            return lambda values: [math.nan if type(value) is bytes else value for value in values]

    def read(*stored: Sequence[Any]) -> list[Any]:
        merged = []
        for values in zip(*stored, strict=True):
            pairs = zip(columns, values, strict=True)
            value = next((column.decode(value) for column, value in pairs if value is not None), None)
            merged.append(None if value is None else final(value))
        return merged

    return read


def _axis_array(values: Sequence[Any]) -> pyarrow.Array:
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if str in kinds:
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds and kinds <= {bool, int} and all(abs(value) < 2**63 for value in values if value is not None):
        return pa.array([None if value is None else int(value) for value in values], pa.int64())
    return pa.array([None if value is None else float(value) for value in values], pa.float64())
