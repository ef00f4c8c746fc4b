"""The child process of SwiftS3: Swift's four servers as green threads of one process, for one folder.

Run by the interpreter of Swift's own environment: `python -I serve.py FOLDER PORT PORT PORT PORT [remove]`. Says
`ready` on standard output and serves until its standard input closes, which the end of the parent does, too, however
it ends; `remove` then takes the folder with it.
"""

import shutil
import sys
from pathlib import Path

STORAGE = ("account", "container", "object")


def main(folder: Path, ports: list[int], is_removed: bool) -> None:
    from swift.common import utils

    utils.set_swift_dir(str(folder))  # in place of /etc/swift, and before any other part of Swift looks there
    utils.monkey_patch()
    utils.get_logger({}, log_to_console=True)  # once is enough: every logger of Swift then writes to stderr, too

    import eventlet
    import eventlet.tpool

    for name, port in zip(STORAGE, ports, strict=False):
        _save_ring(folder / f"{name}.ring.gz", port)
    for name, port in zip((*STORAGE, "proxy"), ports, strict=True):
        eventlet.spawn(_serve, folder / f"{name}.conf", eventlet.listen(("127.0.0.1", port)))
    eventlet.sleep(0)  # lets each of them load and listen
    print("ready", flush=True)
    eventlet.tpool.execute(sys.stdin.read)
    if is_removed:
        shutil.rmtree(folder, ignore_errors=True)


def _save_ring(path: Path, port: int) -> None:
    """A ring of one device: everything lives on this server, once."""
    from swift.common.ring import RingBuilder

    builder = RingBuilder(part_power=2, replicas=1, min_part_hours=0)
    place = {"region": 1, "zone": 1, "ip": "127.0.0.1", "port": port, "device": "disk", "weight": 1}
    builder.add_dev({"id": 0, **place})
    builder.rebalance(seed=0)
    builder.get_ring().save(str(path))


def _serve(conf: Path, listener: object) -> None:
    import eventlet.wsgi
    from swift.common import utils, wsgi

    eventlet.wsgi.server(
        listener,
        wsgi.loadapp(str(conf), global_conf={"log_name": conf.stem}),
        utils.logs.NullLogger(),
        protocol=wsgi.SwiftHttpProtocol,
        capitalize_response_headers=False,  # else `ETag` becomes `Etag`, which boto3 does not find
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(word) for word in sys.argv[2:6]], sys.argv[6:] == ["remove"])
