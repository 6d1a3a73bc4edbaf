"""flowerpress's own contract tests for these codecs: ``pytest contract_examples.py``, with both packages installed.

The contract is in flowerpress's repository, not in its wheel: `tests.codecs.contract` wants a checkout on PYTHONPATH.
"""

from tests.codecs.contract import Contract


class TestSigns(Contract):
    text = "signs"
    bound = float("inf")  # one magnitude for all: no error is promised


class TestXor(Contract):
    text = "xor | zstd"
    reference = True
