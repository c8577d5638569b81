"""Prints the channels and subchannels that a channelz service reports: kind, name, state, calls started."""

import sys

import grpc
from grpc_channelz.v1 import channelz_pb2 as channelz
from grpc_channelz.v1 import channelz_pb2_grpc as channelz_grpc

stub = channelz_grpc.ChannelzStub(grpc.insecure_channel(sys.argv[1]))


def state(data):
    return channelz.ChannelConnectivityState.State.Name(data.state.state)


for channel in stub.GetTopChannels(channelz.GetTopChannelsRequest(), timeout=5).channel:
    data = channel.data
    print("channel", channel.ref.channel_id, data.target, state(data), data.calls_started)
    same = stub.GetChannel(channelz.GetChannelRequest(channel_id=channel.ref.channel_id), timeout=5).channel
    assert same.ref == channel.ref
    for ref in channel.subchannel_ref:
        request = channelz.GetSubchannelRequest(subchannel_id=ref.subchannel_id)
        data = stub.GetSubchannel(request, timeout=5).subchannel.data
        print("subchannel", data.target, state(data), data.calls_started)
assert stub.GetServers(channelz.GetServersRequest(), timeout=5).end
try:
    stub.GetSocket(channelz.GetSocketRequest(socket_id=7), timeout=5)
    raise SystemExit("there is no socket 7")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.NOT_FOUND
