"""HTTP under the API: ports, connections, bodies, hosts, the access log, and the end of the service."""
