"""Sends unary RPCs with grpcio's round robin: `load.py ADDRESSES CALLERS [COUNT]`.

Prints `ready` after a first RPC. Sends COUNT RPCs, or without COUNT sends RPCs until stdin ends. Then prints the
number of RPCs, the number of failures, and the duration of the slowest RPC (milliseconds)."""

import sys
import threading
import time

import grpc
from echo import SERVICE, request

addresses, callers = sys.argv[1], int(sys.argv[2])
left = int(sys.argv[3]) if len(sys.argv) > 3 else None
channel = grpc.insecure_channel(
    f"ipv4:{addresses}",
    options=[
        ("grpc.default_authority", "localhost"),
        ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
    ],
)
unary = channel.unary_unary(f"/{SERVICE}/Unary")
hello = request("hello")
stop = threading.Event()
lock = threading.Lock()
total = failed = 0
slowest = 0.0


def call():
    global total, failed, left, slowest
    while not stop.is_set():
        with lock:
            if left is not None:
                if left == 0:
                    return
                left -= 1
        begin = time.monotonic()
        try:
            unary(hello, timeout=5)
            good = True
        except grpc.RpcError:
            good = False
        took = time.monotonic() - begin
        with lock:
            total += 1
            failed += not good
            slowest = max(slowest, took)


try:
    unary(hello, timeout=5, wait_for_ready=True)
except grpc.RpcError:
    pass
print("ready", flush=True)
threads = [threading.Thread(target=call) for _ in range(callers)]
for thread in threads:
    thread.start()
if left is None:
    sys.stdin.read()
    stop.set()
for thread in threads:
    thread.join()
print(total, failed, int(slowest * 1000), flush=True)
