"""URLs and addresses that lead where strangers' URLs must not."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

CLOSED_ADDRESSES = (
    # IPv4: this network, private, shared, loopback, link-local and metadata, protocol, documentation, relays, benchmark
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "100.127.255.254"),
    *("127.0.0.1", "127.0.0.53", "127.1.2.3", "127.255.255.255", "168.63.129.16", "169.254.0.1", "169.254.169.254"),
    *("169.254.170.2", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.31.196.1"),
    *("192.52.193.1", "192.88.99.1", "192.168.0.1", "192.168.255.255", "192.175.48.1", "198.18.0.1", "198.19.255.255"),
    *("198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    # IPv6: unspecified, loopback, compatible, mapped, translated, NAT64, discard, Teredo, ORCHID, documentation, 6to4
    *("::", "::1", "::7f00:1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:169.254.169.254"),
    *("::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b::0.0.0.0"),
    *("64:ff9b:1::8.8.8.8", "64:ff9b:1:7f00:0:100::", "64:ff9b:1:808:8:800::", "100::1", "100:0:0:1::1", "200::1"),
    *("2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:2::1", "2001:3::1", "2001:10::1", "2001:20::1"),
    *("2001:db8::1", "2002:7f00:1::", "2002:808:808::1", "2002:a9fe:a9fe::", "2620:4f:8000::1", "3fff::1"),
    *("2a00:1450::5efe:7f00:1", "2a00:1450::200:5efe:a00:1", "4000::1", "5f00::1", "fc00::1", "fd00:ec2::254"),
    *("fd20:ce::254", "fe80::1", "fe80::a9fe:a9fe", "fec0::1", "ff02::1", "ff0e::1", "e000::1"),
)
OPEN_ADDRESSES = (
    *("1.1.1.1", "8.8.8.8", "93.184.216.34", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "9.255.0.1"),
    *("192.0.1.1", "198.17.255.255", "198.20.0.1", "223.255.255.255", "2606:4700::1111", "2a00:1450:4001::200e"),
    *("2001:200::1", "2001:4860:4860::8888", "64:ff9b::8.8.8.8", "2620:0:2d0:200::7"),
)
# Ways in which one address is written that some parser somewhere understands.
_SPELLINGS = (
    *(
        "{0}",
        "{0}.",
        "{a}.{rest}",
        "0{a:o}.{b}.{c}.{d}",
        "0{a:o}.0{b:o}.0{c:o}.0{d:o}",
        "0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}",
    ),
    *("0x{whole:08x}", "0X{whole:X}", "{whole}", "0{whole:o}", "{a:03}.{b:03}.{c:03}.{d:03}", "{a}.{b}.{cd}", "%31{0}"),
    *(
        "[::ffff:{0}]",
        "[::{0}]",
        "[64:ff9b::{0}]",
        "[::ffff:{ab:x}:{cd:x}]",
        "[0:0:0:0:0:ffff:{0}]",
        "[2002:{ab:x}:{cd:x}::]",
    ),
    *(
        "{wide}",
        "{0}%00.example.com",
        "[{0}]",
        "[::ffff:{0}%25eth0]",
        "a@{0}",
        "example.com:443@{0}",
        "example.com%40{0}",
    ),
    *("{0}\\@example.com", "{0}\t", "{0}#@example.com", "{dots}", "{0}.nip.io.", "{wholes}"),
)
_WIDE = str.maketrans("0123456789.", "0123456789。")
_CIRCLED = str.maketrans("123456789", "①②③④⑤⑥⑦⑧⑨")
_TARGETS = ("127.0.0.1", "169.254.169.254", "10.0.0.1", "192.168.1.1", "100.100.100.200")
_NAMES = (
    *("localhost", "LOCALHOST", "localhost.", "foo.localhost", "localhost.localdomain", "router", "metadata"),
    *("metadata.google.internal", "vault.internal", "printer.local", "nas.lan", "db.corp", "x.home.arpa", "x.intranet"),
    *(
        "ip6-localhost",
        "kubernetes",
        "kubernetes.default.svc.cluster.local",
        "host.docker.internal",
        "x.onion",
        "x.invalid",
    ),
)
_ODD = (
    *("", "/", "//", "https:", "https://", "https:///", "https:///etc/passwd", "//example.com/", "example.com/hook"),
    *(
        "http://example.com/",
        "HTTP://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
    ),
    *("javascript:alert(1)", "data:text/plain,x", "ws://example.com/", "unix:///run/x.sock", "https+unix://%2Frun/x"),
    *("dict://127.0.0.1:11211/", "jar:https://example.com!/", "ldap://example.com/", "blob:https://example.com/"),
    *("https://example.com:22/", "https://example.com:25/", "https://example.com:80/", "https://example.com:0/"),
    *(
        "https://example.com:6379/",
        "https://example.com:5432/",
        "https://example.com:9200/",
        "https://example.com:6667/",
    ),
    *("https://example.com:65536/", "https://example.com:99999/", "https://example.com:-1/", "https://example.com:/"),
    *(
        "https://example.com:44３/",
        "https://example.com:0x1bb/",
        "https://example.com:443:443/",
        "https://example.com: 443/",
    ),
    *("https://user@example.com/", "https://user:pw@example.com/", "https://@example.com/", "https://:@example.com/"),
    *("https://example.com/#f", "https://exa mple.com/", "https://example.com/a b", "https://example.com\\@127.0.0.1/"),
    *("https://example.com/\r\nx: y", "https://example.com/\x00", "\thttps://example.com/", "https://exam\nple.com/"),
    *("https://ex%61mple.com/", "https://example%2ecom/", "https://%31%32%37.0.0.1/", "https://example..com/"),
    *("https://.example.com/", "https://example.com./", "https://-a.example.com/", "https://a-.example.com/"),
    *(
        "https://example.com,127.0.0.1/",
        "https://example.com;127.0.0.1/",
        "https://[::1/",
        "https://::1]/",
        "https://[]/",
    ),
    *("https://[::1]evil.com/", "https://[fe80::1%25eth0]/", "https://[fe80::1%eth0]/", "https://[v1.fe80::a]/"),
    *("https://[example.com]/", "https://[127.0.0.1]/", "https://1/", "https://0/", "https://00/", "https://0x/"),
    *("https://1.2/", "https://1.2.3/", "https://1.2.3.4.5/", "https://256.256.256.256/", "https://example.1/"),
    *(
        "https://example.0x1/",
        "https://xn--/",
        "https://xn--a.com/",
        "https://\u200d.com/",
        "https://\ufeffexample.com/",
    ),
    *("https://" + "a" * 64 + ".com/", "https://" + "a." * 127 + "com/", "https://example.com/" + "a" * 2048),
    *("https://\u2028.com/", "https://exam\u00adple.internal/", "https://ｌｏｃａｌｈｏｓｔ/", "https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/"),
)


def hostile_urls(port: int) -> list[str]:
    """More than 300, `port` being one where somebody listens."""
    hosts = [form.format(text, **_parts(text)) for text in _TARGETS for form in _SPELLINGS]
    hosts += [text if "." in text and ":" not in text else f"[{text}]" for text in CLOSED_ADDRESSES]
    found = [f"https://{host}:{port}/hook" for host in [*hosts, *_NAMES]]
    return [*found, *(f"http://{host}:{port}/hook" for host in (*_TARGETS, *_NAMES)), *_ODD]


def _parts(text: str) -> dict[str, object]:
    whole = int(IPv4Address(text))
    a, b, c, d = whole.to_bytes(4, "big")
    groups = {"a": a, "b": b, "c": c, "d": d, "ab": whole >> 16, "cd": whole & 0xFFFF, "rest": whole & 0xFFFFFF}
    texts = {"wholes": f"{whole}.", "wide": text.translate(_WIDE), "dots": text.translate(_CIRCLED)}
    return {"whole": whole, **groups, **texts}


def closed_addresses() -> list[IPv4Address | IPv6Address]:
    return [IPv6Address(each) if ":" in each else IPv4Address(each) for each in CLOSED_ADDRESSES]
