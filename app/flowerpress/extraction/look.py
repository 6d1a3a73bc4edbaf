"""Looks into HDF5 files, in a process of its own: damaged ones can hang HDF5, or crash it. See `probe`.

It is a program, not a module: a line with a path in, a line with what is there out, and nothing of ours imported.
"""

import json
import sys


def look(path: str) -> dict[str, dict[str, object]]:
    """Return shape, dtype and layout of each dataset in the first level of a file, or why it cannot be read."""
    import h5py

    found = {}
    with h5py.File(path, "r") as file:
        for name in file:
            item = file.get(name)
            if isinstance(item, h5py.Dataset):
                found[name] = {
                    "shape": item.shape,
                    "dtype": item.dtype.str,
                    "chunk": item.chunks,
                    "stored": item.id.get_storage_size(),
                    "elsewhere": bool(item.external or item.is_virtual or item.file.filename != file.filename),
                }
    return found


def main() -> None:
    """Answer line by line, until nobody asks any longer."""
    for line in sys.stdin:
        try:
            answer: dict[str, object] = {"found": look(json.loads(line))}
        except Exception as error:  # HDF5 has many kinds
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
