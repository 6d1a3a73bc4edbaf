"""The range coder once more, as slow and as plain as its description: one symbol, one step, Python's integers."""

LOW, WORD = 1 << 31, (1 << 32) - 1


def encode(symbols, rows, cdf, lengths, offsets) -> bytes:
    steps = []
    for symbol, row in zip(symbols, rows, strict=True):
        value, top = symbol - offsets[row], lengths[row] - 2
        escaped = not 0 <= value < top
        bin_ = top if escaped else value
        steps.append(("bin", cdf[row][bin_], cdf[row][bin_ + 1] - cdf[row][bin_]))
        if escaped:
            raw, nibbles = (-2 * value - 1 if value < 0 else 2 * (value - top)), []
            while raw:
                nibbles.append(raw & 15)
                raw >>= 4
            count = len(nibbles)
            while count >= 15:
                steps.append(("nibble", 15, 0))
                count -= 15
            steps += [("nibble", n, 0) for n in [count, *nibbles]]
    x, emitted = LOW, []
    for kind, start, freq in reversed(steps):
        if x >= ((1 << 47) * freq if kind == "bin" else 1 << 59):
            emitted.append(x & WORD)
            x >>= 32
        x = (x // freq) * 65536 + x % freq + start if kind == "bin" else x * 16 + start
    words = [x & WORD, x >> 32, *reversed(emitted)]
    return b"".join(word.to_bytes(4, "little") for word in words)


def decode(stream, rows, cdf, lengths, offsets) -> list[int]:
    words = [int.from_bytes(stream[i : i + 4], "little") for i in range(0, len(stream), 4)]
    x, words = words[0] | words[1] << 32, words[2:]

    def refilled(x):
        return x << 32 | words.pop(0) if x < LOW else x

    def nibble(x):
        return x & 15, refilled(x >> 4)

    found = []
    for row in rows:
        part, bin_ = x & 65535, 0
        while cdf[row][bin_ + 1] <= part:
            bin_ += 1
        x = refilled((cdf[row][bin_ + 1] - cdf[row][bin_]) * (x >> 16) + part - cdf[row][bin_])
        if bin_ == lengths[row] - 2:
            count, x = nibble(x)
            digits = []
            for _ in range(count):
                digit, x = nibble(x)
                digits.append(digit)
            raw = sum(digit << 4 * i for i, digit in enumerate(digits))
            bin_ = -(raw // 2) - 1 if raw % 2 else bin_ + raw // 2
        found.append(bin_ + offsets[row])
    return found
