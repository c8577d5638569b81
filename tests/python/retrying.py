"""Sends unary RPCs with grpcio and a retry policy until its input ends. Prints how many were sent, and how they failed.

Arguments: the target, a service config, callers, the deadline of an RPC in seconds.
"""

import collections
import json
import sys
import threading
import time

import grpc

target, config, callers, deadline = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
channel = grpc.insecure_channel(target, options=[("grpc.service_config", config)])
call = channel.unary_unary("/hotpick.echo.Echo/Unary", lambda message: message, lambda message: message)
grpc.channel_ready_future(channel).result(timeout=30)
stop = threading.Event()
totals, failures = [0] * callers, collections.Counter()


def send(number):
    while not stop.is_set():
        try:
            call(b"\n\x05hello", timeout=deadline)
        except grpc.RpcError as error:
            failures[error.code().name] += 1
        totals[number] += 1
        time.sleep(0.01)


threads = [threading.Thread(target=send, args=(number,)) for number in range(callers)]
for thread in threads:
    thread.start()
print("ready", flush=True)
sys.stdin.read()
stop.set()
for thread in threads:
    thread.join()
print(json.dumps({"total": sum(totals), "failed": failures}), flush=True)
