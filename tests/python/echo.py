"""Messages of the echo service, encoded by hand so that protoc is not needed."""

SERVICE = "hotpick.echo.Echo"


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_varint(data, at):
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7


def fields(data):
    """Returns a dictionary of field number -> value, for a message of strings and integers."""
    found, at = {}, 0
    while at < len(data):
        key, at = read_varint(data, at)
        if key & 7 == 0:
            found[key >> 3], at = read_varint(data, at)
        else:
            length, at = read_varint(data, at)
            found[key >> 3] = data[at : at + length].decode()
            at += length
    return found


def text_field(number, text):
    data = text.encode()
    return varint(number << 3 | 2) + varint(len(data)) + data if data else b""


def request(text, count=0):
    return text_field(1, text) + (varint(2 << 3) + varint(count) if count else b"")


def response(text, backend):
    return text_field(1, text) + text_field(2, backend)
