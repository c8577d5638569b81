"""An OTLP collector: prints its port, and then each metric and span that it gets, one JSON object a line."""

import json
import threading
from concurrent import futures

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc


lock = threading.Lock()


def attributes(of):
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in of}


def say(**line):
    with lock:
        print(json.dumps(line), flush=True)


class Metrics(metrics_grpc.MetricsServiceServicer):
    def Export(self, request, context):
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    data = getattr(metric, metric.WhichOneof("data"))
                    for point in data.data_points:
                        value = point.count if hasattr(point, "count") else point.as_int
                        say(metric=metric.name, unit=metric.unit, value=value, labels=attributes(point.attributes))
        return metrics.ExportMetricsServiceResponse()


class Trace(trace_grpc.TraceServiceServicer):
    def Export(self, request, context):
        for resource in request.resource_spans:
            service = attributes(resource.resource.attributes)["service.name"]
            for scope in resource.scope_spans:
                for span in scope.spans:
                    say(
                        span=span.name,
                        service=service,
                        trace=span.trace_id.hex(),
                        id=span.span_id.hex(),
                        parent=span.parent_span_id.hex(),
                        kind=span.kind,
                        status=span.status.code,
                        events=[event.name for event in span.events],
                        attributes=attributes(span.attributes),
                    )
        return trace.ExportTraceServiceResponse()


server = grpc.server(futures.ThreadPoolExecutor(4))
metrics_grpc.add_MetricsServiceServicer_to_server(Metrics(), server)
trace_grpc.add_TraceServiceServicer_to_server(Trace(), server)
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
