"""Makes RPCs with grpcio, each with a script for the server, and prints how each ended.

Arguments: the server's address, and a service config. Input: one RPC a line, as `name script`.
"""

import sys

import grpc

address, config = sys.argv[1:]
channel = grpc.insecure_channel(address, options=[("grpc.service_config", config)])
call = channel.unary_unary("/hotpick.echo.Echo/Unary", lambda message: message, lambda message: message)
for line in sys.stdin:
    name, script = line.split()
    try:
        call(b"\n\x05hello", metadata=(("call", name), ("script", script)), timeout=5)
        print("OK", flush=True)
    except grpc.RpcError as error:
        print(error.code().name, flush=True)
