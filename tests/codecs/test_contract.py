from tests.codecs.contract import Contract


class TestRaw(Contract):
    text = "raw"


class TestPlanes(Contract):
    text = "planes"


class TestZstd(Contract):
    text = "planes | zstd"


class TestZstdLevel(Contract):
    text = "raw | zstd(level=9)"


class TestZfp(Contract):
    text = "zfp"


class TestZfpTolerance(Contract):
    text = "zfp(tolerance=0.01)"
    bound = 0.01


class TestZfpThenZstd(Contract):
    text = "zfp(tolerance=0.5) | zstd"
    bound = 0.5
