"""The hot path's sockets: an HTTP/1.1 server and a pooled client over llhttp, protocol to protocol; TLS contexts."""
