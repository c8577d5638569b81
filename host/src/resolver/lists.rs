//! `static:`, `ipv4:`, `ipv6:` and `unix:`: endpoints that are listed in the target (gRPC's `doc/naming.md`).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::address::{Address, DEFAULT_PORT};
use super::endpoint::Endpoint;
use super::manual::ManualResolver;
use super::target::{Target, TargetError};

type Built = Result<ManualResolver, TargetError>;

/// Resolves `host:port,host:port`. An item may also be `unix:/path`.
pub(super) fn any(target: &Target) -> Built {
    list(target, |text| text.parse::<Address>())
}

/// Resolves `10.0.0.1:5001,10.0.0.2`.
pub(super) fn ipv4(target: &Target) -> Built {
    list(target, ipv4_address)
}

/// Resolves `[2001:db8::1]:5001,2001:db8::2`.
pub(super) fn ipv6(target: &Target) -> Built {
    list(target, ipv6_address)
}

/// Resolves `/run/echo.sock`, or a path relative to the working directory.
pub(super) fn unix(target: &Target) -> Built {
    match (target.authority(), target.endpoint()) {
        (_, "") => Err(TargetError::invalid(target, "names no socket: write unix:/path")),
        ("", _) => Ok(ManualResolver::new([Endpoint::new(Address::unix(target.path()))])),
        _ => Err(TargetError::invalid(target, "has a host: write unix:/path, or unix:///path")),
    }
}

/// Resolves a list, separated by commas, to one endpoint for each item.
fn list<E: std::fmt::Display>(target: &Target, parse: impl Fn(&str) -> Result<Address, E>) -> Built {
    let items = target.endpoint().split(',').filter(|text| !text.is_empty());
    let endpoints = items
        .map(|text| parse(text).map(Endpoint::new))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TargetError::invalid(target, error))?;
    if endpoints.is_empty() {
        return Err(TargetError::invalid(target, "names no endpoint: write host:port,host:port"));
    }
    Ok(ManualResolver::new(endpoints))
}

fn ipv4_address(text: &str) -> Result<Address, String> {
    let bare = || text.parse::<Ipv4Addr>().map(|ip| SocketAddrV4::new(ip, DEFAULT_PORT));
    let address = text.parse::<SocketAddrV4>().or_else(|_| bare());
    let address = address.map_err(|_| format!("{text:?} is not an IPv4 address: write 10.0.0.1:5001"))?;
    Ok(SocketAddr::V4(address).into())
}

fn ipv6_address(text: &str) -> Result<Address, String> {
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let bare = || inner.parse::<Ipv6Addr>().map(|ip| SocketAddrV6::new(ip, DEFAULT_PORT, 0, 0));
    let address = text.parse::<SocketAddrV6>().or_else(|_| bare());
    let address =
        address.map_err(|_| format!("{text:?} is not an IPv6 address: write [2001:db8::1]:5001"))?;
    Ok(SocketAddr::V6(address).into())
}
