"""MATH and its 500 test problems as a TensorFlow data set.

from pav_jax.problems import math_dataset
tfds.load("hendrycks_math", split="train", download_and_prepare_kwargs={
  "download_config": tfds.download.DownloadConfig(manual_dir=…)})
"""

from typing import ClassVar

from pav_jax.problems import math_files
from pav_jax.problems.frameworks import tfds


class HendrycksMath(tfds.core.GeneratorBasedBuilder):
  """The files of `math_files` as they were published, in its four splits.

  What was removed for being nearly a test problem is listed in the metadata:
  `builder.info.metadata["removed"]`.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES: ClassVar[dict[str, str]] = {
    "1.0.0": "Splits without near duplicates of the 500."
  }
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Unpack the archive of MATH (Hendrycks et al.) into the directory, so that "
    "it has train/<subject>/<n>.json and test/<subject>/<n>.json, and put "
    "test.jsonl of MATH-500 beside them."
  )

  def _info(self) -> tfds.core.DatasetInfo:
    names = ("key", "problem", "level", "type", "solution", "answer")
    return self.dataset_info_from_configs(
      description="Competition mathematics: problems, solutions, answers.",
      homepage="https://github.com/hendrycks/math",
      features=tfds.features.FeaturesDict(
        {name: tfds.features.Text() for name in names}
      ),
      metadata=tfds.core.MetadataDict(),
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager):
    files = math_files.read(dl_manager.manual_dir)
    self.info.metadata["removed"] = [match._asdict() for match in files.removed]
    return {
      name: self._generate_examples(problems)
      for name, problems in files.splits.items()
      if problems
    }

  def _generate_examples(self, problems):
    for key, problem in problems.items():
      yield key, {"key": key, **problem}
