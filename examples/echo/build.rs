//! Generates the service's client and server with `tonic-build`. The service is defined in code instead of a
//! `.proto` file, so that the build does not need protoc.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let method = |name: &str, route: &str| {
        Method::builder()
            .name(name)
            .route_name(route)
            .input_type("crate::EchoRequest")
            .output_type("crate::EchoResponse")
            .codec_path("tonic_prost::ProstCodec")
    };
    let service = Service::builder()
        .name("Echo")
        .package("hotpick.echo")
        .method(method("unary", "Unary").build())
        .method(method("server_stream", "ServerStream").server_streaming().build())
        .method(method("client_stream", "ClientStream").client_streaming().build())
        .method(method("bidi", "Bidi").client_streaming().server_streaming().build())
        .build();
    Builder::new().compile(&[service]);
}
