"""The phishing set, in LIBSVM's format."""

import os
from pathlib import Path
from urllib.request import urlopen

import numpy as np

from byzray.datasets._base import Data, Dataset
from byzray.datasets._files import damaged, reading, require

URL = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/binary/phishing"
ROWS, FEATURES, TRAIN = 11_055, 68, 8_400


class Phishing(Dataset):
    """Phishing websites: 8,400 + 2,655 rows of 68 features, 2 classes.

    Read from ROOT/phishing/phishing, in LIBSVM's format, as float32 values taken as they are. Rows labelled 1 are of
    class 1, all others of class 0. As published, the first 8,400 rows are for training.

    Source: R. Mohammad, L. McCluskey. Phishing Websites. UCI Machine Learning Repository, 2015; as prepared for LIBSVM,
    https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/binary.html.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        return (FEATURES,)

    @property
    def classes(self) -> int:
        return 2

    def load(self, root: Path, download: bool) -> Data:
        from sklearn.datasets import load_svmlight_file

        path = root / "phishing" / "phishing"
        require(self.name, [path], (lambda: _fetch(path)) if download else None)
        with reading(path, f"rows of {FEATURES} features in LIBSVM's format"):
            rows, labels = load_svmlight_file(str(path), n_features=FEATURES, dtype=np.float32, zero_based=False)
        if len(labels) != ROWS:
            raise damaged(path, f"{len(labels)} rows", f"{ROWS}")
        if not (np.isfinite(rows.data).all() and np.isfinite(labels).all()):
            raise damaged(path, "values that are infinite or NaN", "finite ones")
        x, y = rows.toarray(), (labels == 1).astype(np.int64)
        return Data(x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:], classes=self.classes)


def _fetch(path: Path) -> None:
    """Download the file to `path`, where it appears complete or not at all.

    Raises:
        OSError, http.client.HTTPException: it cannot be downloaded or written.
    """
    with urlopen(URL, timeout=60) as response:
        content = response.read()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
