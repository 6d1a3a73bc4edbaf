"""Programs that stand in for VTM's: same arguments, same files, a banner, and coding without loss by zlib.

`install` writes this very file as both programs of a folder; it knows by its name which one it is, and notes in a log
what it is asked. The settings say how it is to misbehave: ``encoder:fail``, ``decoder:short`` and so on.
"""

import os
import signal
import struct
import sys
import time
import zlib

NAMES = ("EncoderAppStatic", "DecoderAppStatic")
BANNER = "\nVVCSoftware: VTM {} Version 21.0 [Linux][GCC 12.2.0][64 bit] [SIMD=AVX2] \n"
HEADER = "<4sIIB3s"


def install(folder, mode="", banner=BANNER):
    """Make a folder of VTM, and return it as text."""
    os.makedirs(os.path.join(folder, "bin"))
    os.makedirs(os.path.join(folder, "cfg"))
    with open(__file__) as file:
        source = file.read().replace(repr(BANNER)[1:-1], repr(banner)[1:-1])
    for name in NAMES:
        path = os.path.join(folder, "bin", name)
        with open(path, "w") as file:
            file.write(f"#!{sys.executable} -SE\n{source}")
        os.chmod(path, 0o755)
    misbehave(folder, mode)
    return str(folder)


def misbehave(folder, mode):
    """Say how the programs of a folder go wrong from now on; not at all if it is empty."""
    with open(os.path.join(folder, "cfg", "encoder_intra_vtm.cfg"), "w") as file:
        file.write(mode)


def asked(folder):
    """Return the calls so far: the program's name and its arguments."""
    import ast  # here, as programs start faster without

    path = os.path.join(folder, "log")
    if not os.path.exists(path):
        return []
    with open(path) as file:
        return [ast.literal_eval(line) for line in file]


def refuse(message):
    print(message, file=sys.stderr)
    sys.exit(1)


def expect(found, *expected):
    """Exit unless the arguments are the expected ones; None stands for any."""
    wanted = [b if a is None else a for a, b in zip(expected, found)]  # noqa: B905
    if len(found) != len(expected) or wanted != found:
        refuse(f"expected {list(expected)}, found {found}")


def encode(arguments, settings):
    """Check every argument, and return the name of the bitstream and its contents."""
    if len(arguments) != 23:
        refuse(f"expected 23 arguments, found {arguments}")
    depth, chroma = arguments[19].partition("=")[2], arguments[21].partition("=")[2]
    expect(
        arguments,
        *("-c", settings, "-i", None, "-o", "", "-b", None, "-q", None, "--ConformanceWindowMode=1", "-wdt", None),
        *("-hgt", None, "-f", "1", "-fr", "1", f"--InternalBitDepth={depth}", f"--InputBitDepth={depth}"),
        *(f"--InputChromaFormat={chroma}", f"--OutputBitDepth={depth}"),
    )
    width, height, depth = int(arguments[12]), int(arguments[14]), int(depth)
    with open(arguments[3], "rb") as file:
        raw = file.read()
    samples = width * height * {"400": 2, "420": 3, "422": 4, "444": 6}[chroma] // 2
    if len(raw) != samples * (1 if depth <= 8 else 2) or not 0 <= int(arguments[9]) <= 63:
        refuse(f"expected {samples} samples of {depth} bits and a qp, found {len(raw)} bytes and {arguments[9]}")
    return arguments[7], struct.pack(HEADER, b"STND", width, height, depth, chroma.encode()) + zlib.compress(raw, 1)


def decode(arguments):
    """Check every argument, and return the name of the picture and its samples."""
    expect(arguments, "-b", None, "-o", None, "-d", None)
    with open(arguments[1], "rb") as file:
        data = file.read()
    try:
        magic, _, _, depth, _ = struct.unpack_from(HEADER, data)
        raw = zlib.decompress(data[struct.calcsize(HEADER) :])
    except (struct.error, zlib.error) as error:
        refuse(f"damaged: {error}")
    if magic != b"STND" or str(depth) != arguments[5]:
        refuse(f"expected a stream of {arguments[5]} bits, found {depth}")
    return arguments[3], raw


def go_wrong(mode, data, root):
    """Do what is asked for instead of what is right; return what is to be written."""
    if mode == "fail":
        print("\n".join(f"line {i}" for i in range(9)))
        refuse("it cannot be done")
    if mode == "hang":
        import subprocess

        child = subprocess.Popen(["sleep", "600"])  # holds the output open
        with open(os.path.join(root, "child"), "w") as file:
            file.write(str(child.pid))
        time.sleep(600)
    if mode == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if mode == "nothing":
        sys.exit(0)
    return {"short": data[:-1], "empty": b"", "long": data + b"\0", "endless": data + bytes(8 << 20)}.get(mode, data)


def main():
    """Be the program that the name says."""
    role = os.path.basename(sys.argv[0])
    root = os.path.dirname(os.path.dirname(os.path.abspath(sys.argv[0])))
    settings = os.path.join(root, "cfg", "encoder_intra_vtm.cfg")
    encoder = role == NAMES[0]
    print(BANNER.format("Encoder" if encoder else "Decoder"), flush=True)
    with open(os.path.join(root, "log"), "a") as file:
        file.write(f"{[role, *sys.argv[1:]]!r}\n")
    if os.read(0, 1):
        refuse("expected no input")
    if len(sys.argv) == 1:
        refuse("expected arguments")
    name, data = encode(sys.argv[1:], settings) if encoder else decode(sys.argv[1:])
    with open(settings) as file:
        whose, _, mode = file.read().partition(":")
    if whose == ("encoder" if encoder else "decoder"):
        data = go_wrong(mode, data, root)
    with open(name, "wb") as file:
        file.write(data)


if __name__ == "__main__":
    main()
