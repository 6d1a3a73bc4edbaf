"""Seed 004: each constructor, method and property of the record, against Flower's own on the same input."""

import copy
import gc
import pickle
import sys
import weakref
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from flowerpress import ChunkError, ConfigError, LatentArray, LatentRecord, press, unpress
from flowerpress.wire import KEY, PRESSED
from tests.samples import awkward, of_dtype

RNG = np.random.default_rng(9)


def state_dict() -> "OrderedDict[str, torch.Tensor]":
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Linear(40, 30))
    return OrderedDict({**net.state_dict(), "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)})


def bfloat16() -> dict[str, torch.Tensor]:
    return {k: v.bfloat16() if v.is_floating_point() else v for k, v in state_dict().items()}


def both() -> tuple[LatentRecord, ArrayRecord]:
    return LatentRecord(state_dict()), ArrayRecord(state_dict())


class TestConstructors:
    def test_empty(self) -> None:
        assert len(LatentRecord()) == 0
        assert LatentRecord() == ArrayRecord()
        assert LatentRecord({}) == LatentRecord([]) == LatentRecord(torch_state_dict={}) == ArrayRecord()

    def test_array_dict(self) -> None:
        stock = ArrayRecord(state_dict())
        for record in (LatentRecord(dict(stock)), LatentRecord(array_dict=dict(stock)), LatentRecord(stock)):
            assert record == stock
            assert all(type(a) is LatentArray for a in record.values())

    def test_numpy_ndarrays(self) -> None:
        arrays = [RNG.standard_normal((3, 3)), np.arange(4)]
        for record in (LatentRecord(arrays), LatentRecord(numpy_ndarrays=arrays)):
            assert record == ArrayRecord(arrays)
            assert list(record) == ["0", "1"]

    def test_torch_state_dict(self) -> None:
        for record in (LatentRecord(state_dict()), LatentRecord(torch_state_dict=state_dict())):
            assert record == ArrayRecord(state_dict())

    def test_awkward_arrays(self) -> None:
        arrays = list(awkward().values())
        for x, y in zip(arrays, LatentRecord(arrays).to_numpy_ndarrays(), strict=True):
            assert np.array_equal(x, y)

    def test_codec(self) -> None:
        x = RNG.standard_normal((500, 4)).astype(np.float32)
        lossy = LatentRecord([x], codec="zfp(tolerance=0.1)")
        assert 0 < np.abs(lossy["0"].numpy() - x).max() <= 0.1
        assert lossy.count_bytes() < LatentRecord([x]).count_bytes() < LatentRecord([x], codec="raw").count_bytes()
        with pytest.raises(ConfigError, match="no codec is called"):
            LatentRecord(codec="nothing")

    @pytest.mark.parametrize(
        "source",
        [
            3,
            "text",
            [1, 2],
            [np.ones(2), 3],
            [torch.ones(2)],
            {"a": 3},
            {"a": np.ones(2)},
            {3: torch.ones(2)},
            {"a": torch.ones(2), "b": Array(np.ones(2))},
            (np.ones(2),),
        ],
    )
    def test_what_is_refused(self, source: Any) -> None:
        for make in (ArrayRecord, LatentRecord):
            with pytest.raises(TypeError, match="Invalid arguments for ArrayRecord"):
                make(source)

    def test_two_sources_are_refused(self) -> None:
        with pytest.raises(TypeError, match="Invalid arguments for ArrayRecord"):
            LatentRecord([np.ones(2)], torch_state_dict=state_dict())
        with pytest.raises(TypeError, match="Invalid arguments for ArrayRecord"):
            LatentRecord([np.ones(2)], [np.ones(2)])
        with pytest.raises(TypeError, match="Invalid arguments for ArrayRecord"):
            LatentRecord(numpy_ndarrays=state_dict())  # type: ignore[arg-type]

    def test_arrays_that_cannot_be_coded(self) -> None:
        with pytest.raises(ConfigError, match="dense tensor"):
            LatentRecord({"a": torch.eye(3).to_sparse()})


class TestKeepInput:
    def test_false_empties_the_input(self) -> None:
        tensors, arrays, record = state_dict(), [np.ones(3), np.ones(2)], dict(ArrayRecord(state_dict()))
        for source in (tensors, arrays, record):
            expected = LatentRecord(copy.copy(source))
            assert LatentRecord(source, keep_input=False) == expected
            assert len(source) == 0

    def test_true_leaves_it(self) -> None:
        tensors = state_dict()
        LatentRecord(tensors, keep_input=True)
        assert list(tensors) == list(state_dict())

    def test_arrays_are_freed_on_the_way(self) -> None:
        """When the last large array is encoded, the first is gone."""
        arrays = {str(i): torch.full((1 << 20,), float(i)) for i in range(4)}
        alive = [weakref.ref(x) for x in arrays.values()]
        seen: list[int] = []

        class Watch(dict):  # type: ignore[type-arg]
            def __delitem__(self, key: str) -> None:
                super().__delitem__(key)
                gc.collect()
                seen.append(sum(ref() is not None for ref in alive))

        watched = Watch(arrays)
        del arrays
        from flowerpress import pack

        pack(watched, keep_input=False, workers=1)
        assert seen[0] < 4
        assert seen[-1] <= 1

    def test_nothing_is_lost_on_an_error(self) -> None:
        arrays = [np.ones(3), np.array(["text"])]
        with pytest.raises(ConfigError):
            LatentRecord(arrays, keep_input=False)
        assert len(arrays) == 2


class TestClassMethods:
    def test_from_array_dict(self) -> None:
        stock = ArrayRecord(state_dict())
        assert LatentRecord.from_array_dict(dict(stock)) == ArrayRecord.from_array_dict(dict(stock))
        given = dict(stock)
        LatentRecord.from_array_dict(given, keep_input=False)
        assert given == {}

    def test_from_numpy_ndarrays(self) -> None:
        arrays = [np.ones((2, 2)), np.zeros(3)]
        assert LatentRecord.from_numpy_ndarrays(arrays) == ArrayRecord.from_numpy_ndarrays(arrays)
        LatentRecord.from_numpy_ndarrays(arrays, keep_input=False)
        assert arrays == []

    def test_from_torch_state_dict(self) -> None:
        tensors = state_dict()
        assert LatentRecord.from_torch_state_dict(tensors) == ArrayRecord.from_torch_state_dict(tensors)
        LatentRecord.from_torch_state_dict(tensors, keep_input=False, codec="raw")
        assert tensors == {}

    def test_inflate(self) -> None:
        ours, stock = both()
        for source in (ours, stock):
            record = LatentRecord.inflate(source.deflate(), source.children)
            assert type(record) is LatentRecord
            assert record == stock
        with pytest.raises(ValueError, match="Unexpected set of `children`"):
            LatentRecord.inflate(stock.deflate(), {})
        with pytest.raises(ValueError, match="do not match"):
            LatentRecord.inflate(next(iter(stock.values())).deflate(), {})


class TestInflatable:
    def test_deflate_is_stock_flowers(self) -> None:
        ours, stock = both()
        assert ours.deflate() == stock.deflate()
        assert ours.deflate().startswith(b"ArrayRecord ")

    def test_object_id(self) -> None:
        ours, stock = both()
        assert ours.object_id == stock.object_id == LatentRecord(state_dict(), codec="raw").object_id
        for key, array in ours.items():
            assert array.object_id == stock[key].object_id

    def test_children(self) -> None:
        ours, stock = both()
        assert set(ours.children) == set(stock.children)
        for array in ours.values():
            assert set(array.children) == set(array.plain().children)
            assert [i for i, _ in array.slice_array()] == [i for i, _ in array.plain().slice_array()]

    def test_is_dirty(self) -> None:
        record = LatentRecord(state_dict())
        assert record.is_dirty
        assert record.object_id
        assert not record.is_dirty
        record["scalar"] = Array(np.zeros(3))
        assert record.is_dirty
        assert record.object_id
        del record["scalar"]
        assert record.is_dirty

    def test_a_stock_peer_inflates_what_we_push(self) -> None:
        ours, stock = both()
        content = RecordDict({"arrays": ours})
        pushed = {i: o.deflate() for i, o in get_all_nested_objects(content).items()}
        received = inflate_object_from_contents(content.object_id, pushed)
        assert type(received["arrays"]) is ArrayRecord
        assert received["arrays"] == stock
        assert {type(a) for a in received["arrays"].values()} == {Array}


class TestValues:
    def test_to_numpy_ndarrays(self) -> None:
        ours, stock = both()
        for keep in (True, False):
            for x, y in zip(ours.to_numpy_ndarrays(keep_input=keep), stock.to_numpy_ndarrays(), strict=True):
                assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())
                assert x.flags.writeable
        assert len(ours) == 0

    def test_to_torch_state_dict(self) -> None:
        ours, _ = both()
        for keep in (True, False):
            found = ours.to_torch_state_dict(keep_input=keep)
            assert type(found) is OrderedDict
            for key, tensor in state_dict().items():
                assert found[key].dtype == tensor.dtype
                assert torch.equal(found[key], tensor)
        assert len(ours) == 0

    def test_torch_need_not_be_imported(self) -> None:
        import subprocess

        code = (
            "import sys, numpy as np; from flowerpress import LatentRecord, press, unpress;"
            "r = unpress(press(LatentRecord([np.ones(3)]))); r.to_numpy_ndarrays(); assert 'torch' not in sys.modules;"
            "assert r.to_torch_state_dict()['0'].sum() == 3"
        )
        assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0

    def test_count_bytes(self) -> None:
        zeros = np.zeros((1000, 1000), np.float32)
        noise = RNG.integers(0, 256, 10_000, dtype=np.uint8)
        assert LatentRecord([zeros]).count_bytes() < 1000
        assert 10_000 < LatentRecord({"noïse": Array(noise)}).count_bytes() <= 10_064
        named = (
            LatentRecord({"ü": Array(np.ones(1))}).count_bytes() - LatentRecord({"u": Array(np.ones(1))}).count_bytes()
        )
        assert named == 1
        record = LatentRecord([zeros, noise])
        assert record.count_bytes() == sum(a.count_bytes() for a in record.values()) + 2

    def test_bfloat16(self) -> None:
        record = unpress(press(LatentRecord(bfloat16())))
        for key, tensor in bfloat16().items():
            assert torch.equal(record.to_torch_state_dict()[key], tensor)
            assert record[key].dtype == str(tensor.dtype).removeprefix("torch.")
            assert record[key].numpy().dtype == tensor.float().numpy().dtype if tensor.is_floating_point() else True
            assert np.array_equal(
                record[key].numpy(), tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()
            )
        stock = ArrayRecord({k: v.float() if v.is_floating_point() else v for k, v in bfloat16().items()})
        assert record == stock
        assert record.object_id == stock.object_id

    def test_tied_weights_travel_once(self) -> None:
        weight = torch.randn(300, 200)
        tied = press(LatentRecord({"embed": weight, "head": weight}))
        assert len(tied[KEY].data) < 1.05 * len(press(LatentRecord({"embed": weight}))[KEY].data)
        assert torch.equal(unpress(tied).to_torch_state_dict()["head"], weight)

    def test_on_a_device(self) -> None:
        array = LatentRecord(state_dict())["0.weight"]
        assert array.torch("cpu").device.type == "cpu"
        assert array.torch("meta").device.type == "meta"
        if torch.cuda.is_available():
            assert torch.equal(array.torch("cuda").cpu(), array.torch())


class TestMapping:
    """What the seed inherits from dict."""

    def test_keys(self) -> None:
        ours, stock = both()
        assert list(ours.keys()) == list(ours) == list(stock.keys())
        assert "scalar" in ours
        assert len(ours) == len(stock)

    def test_values(self) -> None:
        ours, stock = both()
        assert list(ours.values()) == list(stock.values())

    def test_items(self) -> None:
        ours, stock = both()
        assert dict(ours.items()) == dict(stock.items())

    def test_get(self) -> None:
        ours, stock = both()
        assert ours.get("scalar") == ours["scalar"] == stock["scalar"]
        assert ours.get("nothing") is None
        assert ours.get("nothing", 3) == 3  # type: ignore[call-overload]

    def test_setitem_compresses(self) -> None:
        record = LatentRecord(state_dict())
        record["new"] = Array(np.ones(3))
        assert type(record["new"]) is LatentArray
        assert record["new"] == Array(np.ones(3))

    def test_pop(self) -> None:
        record, stock = both()
        assert record.pop("scalar") == stock["scalar"]
        assert "scalar" not in record
        assert record.pop("scalar", None) is None
        with pytest.raises(KeyError):
            record.pop("scalar")

    def test_popitem(self) -> None:
        record, stock = both()
        for _ in range(len(stock)):
            key, value = record.popitem()
            assert value == stock[key]
            assert key not in record
        with pytest.raises(KeyError):
            record.popitem()

    def test_setdefault(self) -> None:
        record = LatentRecord([np.ones(3)])
        assert record.setdefault("0", Array(np.zeros(1))) == Array(np.ones(3))
        assert record.setdefault("1", Array(np.zeros(1))) == Array(np.zeros(1))
        assert type(record["1"]) is LatentArray

    def test_update(self) -> None:
        record = LatentRecord([np.ones(3)])
        record.update({"0": Array(np.zeros(2))})
        record.update([("a", Array(np.ones(1)))], b=Array(np.full(2, 2.0)))
        assert list(record) == ["0", "a", "b"]
        assert [a.numpy().sum() for a in record.values()] == [0, 1, 4]
        assert all(type(a) is LatentArray for a in record.values())

    def test_clear(self) -> None:
        record = LatentRecord(state_dict())
        record.clear()
        assert len(record) == 0
        assert record == ArrayRecord()

    def test_types_are_checked(self) -> None:
        for key, value in ((3, Array(np.ones(1))), ("a", np.ones(1))):
            with pytest.raises(TypeError):
                LatentRecord()[key] = value  # type: ignore[index, assignment]

    def test_copy(self) -> None:
        record = LatentRecord(state_dict(), codec="raw")
        other = record.copy()
        other["x"] = Array(np.ones(1))
        assert "x" not in record
        assert other.codec == "raw"

    def test_pickle(self) -> None:
        ours, stock = both()
        assert pickle.loads(pickle.dumps(ours)) == stock

    def test_repr_does_not_decode(self) -> None:
        record = LatentRecord(state_dict())
        assert "LatentArray(float32[8, 1, 3, 3]" in repr(record)
        assert record["0.weight"].bundle.clock.seconds == 0


class TestLatentArray:
    @pytest.mark.parametrize("shape", [(3, 2), [3, 2]])
    def test_direct(self, shape: Any) -> None:
        stock = Array(np.arange(6.0).reshape(3, 2))
        for array in (
            LatentArray("float64", shape, "numpy.ndarray", stock.data),
            LatentArray(dtype="float64", shape=shape, stype="numpy.ndarray", data=stock.data),
        ):
            assert array == stock
            assert stock == array
            assert array.data == stock.data
            assert (array.dtype, array.shape, array.stype) == ("float64", (3, 2), "numpy.ndarray")

    def test_from_arrays_and_tensors(self) -> None:
        x, t = np.ones((2, 3)), torch.ones(2, 3, dtype=torch.float64)
        arrays = [LatentArray(x), LatentArray(ndarray=x), LatentArray(t), LatentArray(torch_tensor=t)]
        arrays += [LatentArray.from_numpy_ndarray(x), LatentArray.from_torch_tensor(t)]
        assert all(array == Array(x) for array in arrays)
        assert LatentArray.inflate(Array(x).deflate(), Array(x).children) == Array(x)

    @pytest.mark.parametrize(
        "arguments",
        [(), (3,), ([1.0],), (np.ones(1), np.ones(1)), ("float32", (1,), "numpy.ndarray"), ("float32", (1,), "x", "y")],
    )
    def test_what_is_refused(self, arguments: tuple[Any, ...]) -> None:
        with pytest.raises(TypeError, match="Invalid arguments for Array"):
            LatentArray(*arguments)

    def test_damaged_data(self) -> None:
        good = Array(np.ones(3)).data
        pickled = Array(np.ones(3)).data.replace(b"<f8", b"|O8")
        for data in (
            b"",
            b"junk",
            good[:-1],
            good + b"x",
            good.replace(b"(3,)", b"(4,)"),
            pickled,
            b"PK\x03\x04" + good,
        ):
            with pytest.raises(ChunkError, match="array data"):
                LatentArray("float64", (3,), "numpy.ndarray", data)
        with pytest.raises(ChunkError, match="expected the shape"):
            LatentArray("float64", (4,), "numpy.ndarray", good)

    def test_other_serialisations_are_not_guessed(self) -> None:
        with pytest.raises(ConfigError, match="expected the stype"):
            LatentArray("float64", (3,), "mine", b"data")

    def test_each_read_is_a_new_array(self) -> None:
        array = LatentArray(np.ones(3))
        array.numpy()[:] = 7
        assert array.numpy().tolist() == [1, 1, 1]
        assert array != Array(np.zeros(3))
        assert array != 3


class TestPress:
    def test_one_array_per_record(self) -> None:
        pressed = press(LatentRecord(state_dict()))
        assert type(pressed) is ArrayRecord
        (array,) = pressed.values()
        assert (array.dtype, array.shape, array.stype) == ("uint8", (len(array.data),), PRESSED)
        assert type(array) is Array
        with pytest.raises(TypeError, match="Unsupported serialization type"):
            array.numpy()

    @pytest.mark.parametrize("codec", ["zstd", "raw", "zfp"])
    def test_round_trip(self, codec: str) -> None:
        ours, stock = both()
        for record in (ours, stock):
            back = unpress(press(record, codec))
            assert type(back) is LatentRecord
            assert back == stock
            assert list(back) == list(stock)

    def test_a_record_is_not_coded_twice(self) -> None:
        record = LatentRecord(state_dict())
        data = record.bundle.source.data
        assert press(record)[KEY].data is data
        assert press(record, "raw")[KEY].data != data
        record.pop("scalar")
        assert unpress(press(record)) == record

    def test_parts_of_records_are_coded_anew(self) -> None:
        one, two = LatentRecord([np.ones(3)]), LatentRecord([np.zeros(3), np.full(3, 2.0)])
        mixed = LatentRecord({"b": two["1"], "a": one["0"]})
        assert [x.sum() for x in unpress(press(mixed)).to_numpy_ndarrays()] == [6, 3]

    def test_custom_arrays_pass_beside(self) -> None:
        record = ArrayRecord()
        record["mine"] = Array("uint8", (4,), "their.type", b"\0\1\2\3")
        record["w"] = Array(np.ones(3))
        back = unpress(press(record))
        assert back["mine"].data == b"\0\1\2\3"
        assert back["w"] == Array(np.ones(3))
        assert LatentRecord(dict(record))["mine"].stype == "their.type"

    def test_empty_and_plain_records(self) -> None:
        assert len(press(ArrayRecord())) == 0
        plain = ArrayRecord([np.ones(3)])
        assert unpress(plain) is plain

    @pytest.mark.parametrize("codec", ["intdelta | zstd", "delta | quantize(step=0.001) | entropy"])
    def test_differences_do_not_repeat_what_the_receiver_knows(self, codec: str) -> None:
        bases = {key: x.numpy() for key, x in LatentRecord(state_dict()).items()}
        trained = ArrayRecord()
        for key, x in bases.items():
            trained[key] = Array(np.asarray(x + 0.01).astype(x.dtype))
        pressed = press(trained, codec, bases=bases)
        assert pressed[KEY].data[:4] == b"FPB\2"
        back = unpress(pressed, bases=bases)
        assert isinstance(back, LatentRecord)
        assert list(back) == list(bases)
        assert unpress(press(back, codec)) == back, "it describes itself again"
        for other in (None, {}, dict(reversed(bases.items()))):
            with pytest.raises(ChunkError, match="expected references of the schema"):
                unpress(pressed, bases=other)
            assert press(trained, codec, bases=other)[KEY].data[:4] == b"FPB\1"

    def test_pressing_twice_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="reserved"):
            press(press(LatentRecord(state_dict())))

    def test_damage_is_noticed_when_received(self) -> None:
        data = bytearray(press(LatentRecord([RNG.standard_normal(1000)]))[KEY].data)
        data[200] ^= 1
        damaged = ArrayRecord()
        damaged[KEY] = Array("uint8", (len(data),), PRESSED, bytes(data))
        with pytest.raises(ChunkError, match="damaged"):
            unpress(damaged)
        damaged[KEY] = Array("uint8", (3,), PRESSED, bytes(data))
        with pytest.raises(ChunkError, match="expected uint8"):
            unpress(damaged)

    def test_equal_input_equal_bytes(self) -> None:
        assert press(LatentRecord(state_dict())).object_id == press(ArrayRecord(state_dict())).object_id


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "complex64", "uint16", "uint64", "bool", "float16"])
def test_dtypes_stay_true(dtype: str) -> None:
    x = of_dtype(dtype, (10, 3))
    array = LatentArray(x)
    assert array.dtype == dtype
    assert array.torch().dtype == getattr(torch, dtype)
    assert LatentArray(array.torch()) == array
