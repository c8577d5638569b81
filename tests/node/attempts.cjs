// Makes RPCs with grpc-js, each with a script for the server, and prints how each ended.
//
// Arguments: the server's address, and a service config. Input: one RPC a line, as `name script`.

const readline = require("node:readline");
const grpc = require("@grpc/grpc-js");

const [address, config] = process.argv.slice(2);
const same = (message) => message;
const Client = grpc.makeGenericClientConstructor({
  unary: {
    path: "/hotpick.echo.Echo/Unary",
    requestStream: false,
    responseStream: false,
    requestSerialize: same,
    requestDeserialize: same,
    responseSerialize: same,
    responseDeserialize: same,
  },
});
const client = new Client(address, grpc.credentials.createInsecure(), { "grpc.service_config": config });

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [name, script] = line.split(" ");
    const metadata = new grpc.Metadata();
    metadata.set("call", name);
    metadata.set("script", script);
    const deadline = Date.now() + 5000;
    await new Promise((resolve) => {
      client.unary(Buffer.from("\n\x05hello"), metadata, { deadline }, (error) => {
        console.log(error ? grpc.status[error.code] : "OK");
        resolve();
      });
    });
  }
}
main().then(() => process.exit(0));
