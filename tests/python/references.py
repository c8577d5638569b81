"""Runs a reference balancer on the endpoints of a test: grpcio, configured by xDS, or Envoy as a proxy.

    references.py '{"by": "grpcio", "endpoints": [{"address": "127.0.0.1:50051", "weight": 1, "priority": 0, "zone": ""}],
                    "policy": {"ring_hash": {}}, "outlier_detection": {}, "zone": "", "local": {}, "zone_aware": {}}'

The fields of a policy and of the outlier detection are those of their xDS messages. `zone`, `local` and `zone_aware`
are for Envoy: its own zone, the number of Envoys in each zone, and its ZoneAwareLbConfig. Instead of `endpoints` there
may be `loads`: [[requests per second, CPU]]. Each starts a server that reports this load (ORCA).

Prints a line when the balancer accepts RPCs. Then reads lines from stdin. A line is a list of calls, and a call is the
value of the header `hash-key`, or null. For each line, prints a list with the result of each call: the name of the
server that answered (for a started server its index), or a status code."""

import ctypes
import json
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent import futures

import grpc
from echo import SERVICE, fields, request, response
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3 import (
    client_side_weighted_round_robin_pb2,
)
from envoy.extensions.load_balancing_policies.ring_hash.v3 import ring_hash_pb2
from envoy.extensions.load_balancing_policies.round_robin.v3 import round_robin_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import any_pb2, json_format
from xds.data.orca.v3.orca_load_report_pb2 import OrcaLoadReport

NAME = "reference"
HASH_ON = "hash-key"
POLICIES = {
    "ring_hash": ring_hash_pb2.RingHash,
    "round_robin": round_robin_pb2.RoundRobin,
    "client_side_weighted_round_robin": client_side_weighted_round_robin_pb2.ClientSideWeightedRoundRobin,
}
MESSAGES = {"ring_hash": "RingHash", "maglev": "Maglev", "least_request": "LeastRequest", "round_robin": "RoundRobin"}


def reporting(name, port, rps, cpu):
    """Starts a server that reports a load. Returns the server and its endpoint."""
    report = OrcaLoadReport(rps_fractional=rps, cpu_utilization=cpu).SerializeToString()

    def unary(data, context):
        context.set_trailing_metadata((("endpoint-load-metrics-bin", report),))
        return response(fields(data).get(1, ""), name)

    server = grpc.server(futures.ThreadPoolExecutor(4))
    methods = {"Unary": grpc.unary_unary_rpc_method_handler(unary)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, methods)])
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, {"address": f"127.0.0.1:{port}"}


# grpcio and its xDS control plane.


def packed(message):
    into = any_pb2.Any()
    into.Pack(message)
    return into


def listener(_scenario):
    manager = http_connection_manager_pb2.HttpConnectionManager()
    manager.http_filters.add(name="router").typed_config.Pack(router_pb2.Router())
    manager.route_config.name = NAME
    route = manager.route_config.virtual_hosts.add(name=NAME, domains=["*"]).routes.add()
    route.match.prefix = ""
    route.route.cluster = NAME
    route.route.hash_policy.add().header.header_name = HASH_ON
    found = listener_pb2.Listener(name=NAME)
    found.api_listener.api_listener.Pack(manager)
    return found


def cluster(scenario):
    found = cluster_pb2.Cluster(name=NAME, type=cluster_pb2.Cluster.EDS)
    found.eds_cluster_config.eds_config.ads.SetInParent()
    ((name, config),) = scenario["policy"].items()
    extension = found.load_balancing_policy.policies.add().typed_extension_config
    extension.name = name
    extension.typed_config.Pack(json_format.ParseDict(config, POLICIES[name]()))
    if "outlier_detection" in scenario:
        json_format.ParseDict(scenario["outlier_detection"], found.outlier_detection)
    return found


def assignment(scenario):
    found = endpoint_pb2.ClusterLoadAssignment(cluster_name=NAME)
    json_format.ParseDict(localities(NAME, scenario["endpoints"]), found)
    return found


def localities(name, endpoints):
    """Returns a ClusterLoadAssignment as JSON."""
    found = {}
    for endpoint in endpoints:
        at = endpoint.get("priority", 0), endpoint.get("zone", "")
        locality = {"priority": at[0], "locality": {"zone": at[1]}, "lb_endpoints": [], "load_balancing_weight": 1}
        found.setdefault(at, locality)["lb_endpoints"].append(
            {
                "endpoint": {"address": address(endpoint["address"])},
                "load_balancing_weight": endpoint.get("weight", 1),
            }
        )
    return {"cluster_name": name, "endpoints": list(found.values())}


def address(text):
    host, port = text.rsplit(":", 1)
    return {"socket_address": {"address": host, "port_value": int(port)}}


KINDS = {
    "type.googleapis.com/envoy.config.listener.v3.Listener": listener,
    "type.googleapis.com/envoy.config.cluster.v3.Cluster": cluster,
    "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment": assignment,
}


class ControlPlane(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    """Sends each kind of resource once, when it is requested."""

    def __init__(self, scenario):
        self.scenario = scenario

    def StreamAggregatedResources(self, requests, context):
        wanted = queue.Queue()
        threading.Thread(target=self.read, args=[requests, wanted], daemon=True).start()
        while (kind := wanted.get()) is not None:
            resources = [packed(KINDS[kind](self.scenario))]
            yield discovery_pb2.DiscoveryResponse(version_info="1", nonce="1", type_url=kind, resources=resources)

    def read(self, requests, wanted):
        asked = set()
        try:
            for one in requests:
                if one.HasField("error_detail"):
                    print("resource refused:", one.error_detail.message, file=sys.stderr)
                if one.resource_names and one.type_url not in asked:
                    asked.add(one.type_url)
                    wanted.put(one.type_url)
        except grpc.RpcError:
            pass
        wanted.put(None)


def grpcio(scenario):
    server = grpc.server(futures.ThreadPoolExecutor(4))
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(ControlPlane(scenario), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    servers = [{"server_uri": f"127.0.0.1:{port}", "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}]
    bootstrap = {"xds_servers": servers, "node": {"id": NAME, "locality": {}}}
    os.environ["GRPC_XDS_BOOTSTRAP_CONFIG"] = json.dumps(bootstrap)
    return server, f"xds:///{NAME}"


# Envoy.


def typed(name, message, **config):
    return {"name": name, "typed_config": {"@type": f"type.googleapis.com/envoy.extensions.{message}"} | config}


def bootstrap(scenario, port, admin):
    ((name, config),) = scenario["policy"].items()
    if "zone_aware" in scenario:
        config = config | {"locality_lb_config": {"zone_aware_lb_config": scenario["zone_aware"]}}
    policy = typed(name, f"load_balancing_policies.{name}.v3.{MESSAGES[name]}", **config)
    http2 = typed(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "upstreams.http.v3.HttpProtocolOptions",
        explicit_http_config={"http2_protocol_options": {}},
    )
    clusters = [
        {
            "name": NAME,
            "type": "STATIC",
            "load_assignment": localities(NAME, scenario["endpoints"]),
            "load_balancing_policy": {"policies": [{"typed_extension_config": policy}]},
            "typed_extension_protocol_options": {http2["name"]: http2["typed_config"]},
        }
    ]
    # The other Envoys, to which no connections are made.
    envoys = [
        {"address": f"127.1.{at}.{number}:1", "zone": zone}
        for at, (zone, count) in enumerate(scenario.get("local", {}).items())
        for number in range(count)
    ]
    if envoys:
        clusters.append({"name": "local", "type": "STATIC", "load_assignment": localities("local", envoys)})
    hashes = [{"header": {"header_name": HASH_ON}}]
    route = {"match": {"prefix": "/"}, "route": {"cluster": NAME, "timeout": "0s", "hash_policy": hashes}}
    manager = typed(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=NAME,
        codec_type="HTTP2",
        route_config={"virtual_hosts": [{"name": NAME, "domains": ["*"], "routes": [route]}]},
        http_filters=[typed("envoy.filters.http.router", "filters.http.router.v3.Router")],
    )
    listens = {"name": NAME, "address": address(f"127.0.0.1:{port}"), "filter_chains": [{"filters": [manager]}]}
    return {
        "node": {"id": NAME, "cluster": "local", "locality": {"zone": scenario.get("zone", "")}},
        "admin": {"address": address(f"127.0.0.1:{admin}")},
        "cluster_manager": {"local_cluster_name": "local"} if envoys else {},
        "static_resources": {"listeners": [listens], "clusters": clusters},
    }


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def envoy(scenario):
    port, admin = free_port(), free_port()
    file = tempfile.NamedTemporaryFile("w", suffix=".json")
    json.dump(bootstrap(scenario, port, admin), file)
    file.flush()
    # Each worker has its own balancer.
    arguments = ["--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    command = [os.environ["ENVOY"], "-c", file.name, *arguments]
    # Kills Envoy when this process ends for any reason: PR_SET_PDEATHSIG (1), SIGKILL (9).
    kill_with_parent = lambda: ctypes.CDLL(None).prctl(1, 9)
    process = subprocess.Popen(command, stdout=sys.stderr, preexec_fn=kill_with_parent)
    while process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{admin}/ready", timeout=2) as answer:
                if answer.read().startswith(b"LIVE"):
                    return (process, file), f"127.0.0.1:{port}"
        except OSError:
            time.sleep(0.02)
    sys.exit("Envoy exited before it was ready")


def main():
    scenario = json.loads(sys.argv[1])
    loads = scenario.get("loads", [])
    # Sorted, because the C core orders endpoints by address.
    ports = sorted(free_port() for _ in loads)
    servers = [reporting(str(at), port, *load) for at, (port, load) in enumerate(zip(ports, loads))]
    scenario.setdefault("endpoints", [endpoint for _, endpoint in servers])
    kept, target = {"grpcio": grpcio, "envoy": envoy}[scenario["by"]](scenario)
    options = [("grpc.max_reconnect_backoff_ms", 200), ("grpc.enable_retries", 0)]
    channel = grpc.insecure_channel(target, options=options)
    unary = channel.unary_unary(f"/{SERVICE}/Unary")

    def call(key):
        metadata = [(HASH_ON, key)] if key is not None else []
        try:
            return fields(unary(request("x"), metadata=metadata, timeout=10))[2]
        except grpc.RpcError as error:
            return error.code().name

    try:
        print("ready", flush=True)
        for line in sys.stdin:
            print(json.dumps([call(key) for key in json.loads(line)]), flush=True)
    finally:
        if scenario["by"] == "envoy":
            kept[0].kill()
        # A normal exit would wait for the C core to end the ADS stream.
        os._exit(0)


if __name__ == "__main__":
    main()
