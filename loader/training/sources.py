"""The Debian packages whose pages the bundled model learns from, and under which licence they come.

Only licences that allow any use of a changed work as long as notices are kept: PostgreSQL, BSD,
MIT and their like, Apache-2.0, PSF, Boost, public domain. Documentation under the GPL, the GFDL, a
Creative Commons licence that asks for the same licence, or terms of its own is left out: whether a
model is a work derived from its texts is not settled, and so the question does not arise.
"""

from __future__ import annotations

from typing import NamedTuple


class Source(NamedTuple):
    """pages: a regular expression of the paths of its pages; only: one of the content of those that
    count (where a package has several licences)."""

    package: str
    licence: str
    pages: str
    kind: str = "html"
    only: bytes | None = None


DOC = "^/usr/share/doc/"
MAN = r"^/usr/share/man/man[1-8]/[^/]+\.gz$"
RUST_BOOKS = "(book|rust-by-example|reference|edition-guide|nomicon|rustc|embedded-book|rustdoc)"
PERMISSIVE = rb"SPDX-License-Identifier: *(BSD-[234]|MIT)"
APACHE, BSD, MIT = "Apache-2.0", "BSD-3-Clause", "MIT"


def _sphinx(package: str, licence: str, folder: str = "") -> Source:
    return Source(package, licence, rf"{DOC}{folder or package}/.*\.html$")


SOURCES = (
    Source("postgresql-doc-15", "PostgreSQL", rf"{DOC}postgresql-doc-15/html/.*\.html$"),
    # databases
    Source("sqlite3-doc", "public domain", rf"{DOC}sqlite3/(?!releaselog|session|c3ref).*\.html$"),
    _sphinx("python-sqlalchemy-doc", MIT),
    _sphinx("python-django-doc", BSD),
    _sphinx("python-peewee-doc", MIT),
    _sphinx("flask-sqlalchemy-doc", BSD),
    _sphinx("python-sqlalchemy-utils-doc", BSD),
    _sphinx("python-pymongo-doc", APACHE),
    _sphinx("csvkit-doc", MIT, "csvkit"),
    Source("slony1-2-doc", "BSD (PostgreSQL's)", rf"{DOC}slony1-2-doc/adminguide/.*\.html$"),
    _sphinx("pgbackrest-doc", MIT),
    _sphinx("patroni-doc", MIT, "patroni"),
    Source("pgtap-doc", "PostgreSQL", rf"{DOC}pgtap/.*\.html$"),
    Source("pgpool2", "MIT-like (its own)", rf"{DOC}pgpool2/.*\.html$"),
    # servers and systems
    Source("apache2-doc", APACHE, rf"{DOC}apache2-doc/manual/en/.*\.html$"),
    Source("tomcat10-docs", APACHE, r"^/usr/share/tomcat10-docs/docs/.*\.html$"),
    _sphinx("varnish-doc", "BSD-2-Clause", "varnish"),
    Source("krb5-doc", "MIT", rf"{DOC}krb5-doc/(?!appdev/refs).*\.html$"),
    _sphinx("openvswitch-doc", APACHE),
    _sphinx("ovn-doc", APACHE),
    _sphinx("ganeti-doc", "BSD-2-Clause", "ganeti"),
    _sphinx("borgbackup-doc", BSD, "borgbackup"),
    _sphinx("charliecloud-doc", APACHE, "charliecloud"),
    _sphinx("nova-doc", APACHE),
    _sphinx("keystone-doc", APACHE),
    _sphinx("cinder-doc", APACHE),
    _sphinx("glance-doc", APACHE),
    _sphinx("swift-doc", APACHE),
    _sphinx("heat-doc", APACHE),
    _sphinx("ironic-doc", APACHE),
    _sphinx("manila-doc", APACHE),
    _sphinx("octavia-doc", APACHE),
    _sphinx("neutron-doc", APACHE),
    _sphinx("designate-doc", APACHE),
    Source("manpages", "BSD or MIT (such pages only)", MAN, "man", PERMISSIVE),
    Source("manpages-dev", "BSD or MIT (such pages only)", MAN, "man", PERMISSIVE),
    Source("libssl-doc", APACHE, MAN, "man"),
    Source("libcurl4-doc", "curl (MIT-like)", MAN, "man"),
    Source("podman", APACHE, MAN, "man"),
    # programming
    _sphinx("python3.11-doc", "PSF-2.0", "python3.11"),
    Source("rust-doc", "MIT or Apache-2.0", rf"{DOC}rust-doc/html/{RUST_BOOKS}/.*\.html$"),
    Source("llvm-14-doc", "Apache-2.0 with LLVM exception", rf"{DOC}llvm-14-doc/html/[^/]*\.html$"),
    Source("clang-14-doc", "Apache-2.0 with LLVM exception", rf"{DOC}clang-14/html/[^/]*\.html$"),
    Source("nodejs-doc", MIT, rf"{DOC}nodejs/api/.*\.html$"),
    Source("golang-1.19-doc", BSD, rf"{DOC}golang-1.19-doc/html/.*\.html$"),
    Source("tcl8.6-doc", "Tcl (BSD-like)", r"^/usr/share/man/man[3n]/[^/]+\.gz$", "man"),
    Source("cmake-doc", BSD, rf"{DOC}cmake-data/html/(manual|guide|module|command)/.*\.html$"),
    Source("ant-doc", APACHE, rf"{DOC}ant/manual/.*\.html$"),
    _sphinx("python-flask-doc", BSD),
    _sphinx("python-werkzeug-doc", BSD),
    _sphinx("python-jinja2-doc", BSD),
    _sphinx("python-mako-doc", MIT),
    _sphinx("python-tornado-doc", APACHE),
    _sphinx("python-aiohttp-doc", APACHE),
    _sphinx("python-requests-doc", APACHE),
    _sphinx("python-cryptography-doc", "Apache-2.0 or BSD-3-Clause"),
    _sphinx("python-setuptools-doc", MIT),
    _sphinx("python-pytest-doc", MIT),
    _sphinx("python-ipython-doc", BSD),
    _sphinx("sphinx-doc", "BSD-2-Clause"),
    _sphinx("scons-doc", MIT, "scons"),
    _sphinx("emscripten-doc", MIT),
    Source("dpdk-doc", BSD, rf"{DOC}dpdk/guides/.*\.html$"),
    # plain English
    Source("jargon-text", "public domain", rf"{DOC}jargon-text/jargon\.txt\.gz$", "wrapped"),
)
