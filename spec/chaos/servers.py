"""The laboratory's own servers, behind its proxies.

They are those of tools/servers.sh in a folder of their own, so that they can be
killed while nobody else uses them. The proxies' ports are chosen first: Kafka
tells its clients an address, and that has to be the proxy's.
"""

import os
import random
import re
import socket
import subprocess
import threading

from proxy import Loop, Proxy

NAMES = ("kafka", "mysql", "mariadb")
LINE = re.compile(r"export (\w+)=(.*)")


def free_port():
    """Below the range of outgoing connections, which would take it meanwhile."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        low = max(20000, int(file.read().split()[0]))
    while True:
        port = random.randrange(10000, low)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


class Servers:
    """Kafka, MySQL and MariaDB with a proxy before each way in."""

    def __init__(self, home, folder, seed):
        self.home, self.folder = home, folder
        self.loop = Loop()
        self.lock = threading.Lock()
        self.proxies = {}
        for name in ("kafka", "kafka-tls", "mysql", "mariadb"):
            self.proxies[name] = Proxy(
                self.loop, 0, mysql=name in ("mysql", "mariadb"),
                seed="%s/%s" % (seed, name), port=free_port())
        self.env = dict(os.environ)
        self.env["TIDEMILL_SERVERS_DIR"] = folder
        self.env["TIDEMILL_KAFKA_PROXY"] = "%d %d" % (
            self.proxies["kafka"].port, self.proxies["kafka-tls"].port)
        self.addresses = {}

    def script(self, *arguments, timeout=300):
        done = subprocess.run(
            [os.path.join(self.home, "tools/servers.sh"), *arguments], env=self.env,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
        if done.returncode != 0:
            raise OSError("servers.sh %s: %s" % (" ".join(arguments), done.stderr))
        return done.stdout

    def up(self):
        # Whatever an aborted run has left advertises the ports of its proxies.
        self.script("down")
        for line in self.script("up").splitlines():
            found = LINE.fullmatch(line)
            if found:
                self.addresses[found.group(1)] = found.group(2)
        with open(os.path.join(self.folder, "kafka-proxied/ports"), encoding="ascii") as file:
            plain, tls = map(int, file.read().split()[:2])
        self.proxies["kafka"].target = plain
        self.proxies["kafka-tls"].target = tls
        for name in ("mysql", "mariadb"):
            self.proxies[name].target = self.database(name)[1]

    def down(self):
        for proxy in self.proxies.values():
            proxy.close()
        self.script("down")

    def kafka(self):
        """Past every proxy."""
        return self.addresses["TIDEMILL_KAFKA"]

    def ca(self):
        return self.addresses["TIDEMILL_TLS_CA"]

    def database(self, flavor):
        """(host, port, user, password, certificate), past every proxy."""
        url = self.addresses["TIDEMILL_" + flavor.upper()]
        user, password, host, port = re.match(
            r"mysql://([^:]*):([^@]*)@([^:]*):(\d+)/", url).groups()
        return host, int(port), user, password, self.ca()

    def ends(self, name, kill):
        with self.lock:
            self.script(name + ("-kill" if kill else "-stop"))

    def begins(self, name):
        with self.lock:
            self.script(name + "-start")
