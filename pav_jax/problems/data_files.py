"""Data sets of TFDS, read whole."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pav_jax.problems.frameworks import tf, tfds
from pav_jax.problems.prompt_format import Record

_ERRORS = (
  OSError,
  AssertionError,
  tfds.download.DownloadError,
  tf.errors.OpError,
)


def read(
  make_builder: Callable[[], Any],
  record: Callable[[Mapping[str, str]], Record],
  *,
  splits: Sequence[str],
  manual_dir: str | None = None,
) -> dict[str, list[Record]]:
  """All problems of a data set of texts, prepared first if it is not there.

  Several processes may do this at a time: the first to finish writes it.

  Args:
    make_builder: makes a `tfds.core.DatasetBuilder`.
    record: makes a problem of an example's texts.
    splits: of the data set; the order is that of keys, and so does not depend
      on how it was written. One that the data set does not have is empty.
    manual_dir: for a data set that is made of files on this machine.

  Raises:
    ValueError: if it cannot be prepared, with the reason.
  """
  builder = make_builder()
  if not builder.is_prepared():
    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(manual_dir=manual_dir)
    try:
      builder.download_and_prepare(download_config=config)
    except _ERRORS as error:
      builder = make_builder()
      if not builder.is_prepared():
        raise ValueError(
          f"data set {builder.name} is not in {builder.data_dir} and cannot be "
          f"made there: {' '.join(str(error).split())}"
        ) from error
  return {
    split: sorted(
      record({name: value.decode() for name, value in row.items()})
      for row in tfds.as_numpy(builder.as_dataset(split=split))
    )
    if split in builder.info.splits
    else []
    for split in splits
  }
