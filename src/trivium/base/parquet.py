"""Parquet files, whose mistakes are told as those of other files are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from trivium.base.errors import DataError
from trivium.base.files import check_regular

if TYPE_CHECKING:
    import pyarrow.parquet


@contextmanager
def open_parquet(path: Path) -> Iterator[pyarrow.parquet.ParquetFile]:
    """A Parquet file to read from, closed at the end.

    Raises:
        DataError: the file is missing, no Parquet, or damaged where it is being read.
    """
    import pyarrow.parquet  # heavy, and only these files need it

    check_regular(path)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Check the path.") from None
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read as Parquet: {reason}. Fetch or write it again.") from None
