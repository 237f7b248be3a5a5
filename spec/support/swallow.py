"""A TCP proxy to a port of 127.0.0.1, as a network that loses connections without a word.

  swallow.py PORT WORD

Prints the port it listens on. A line on stdin, echoed when it is done, ends every connection; then
  on    of those that come, nothing gets through any more once the client has sent WORD
  off   they get through again
"lost" is printed for each of them. It is ended after PATIENCE_S, so that a client that would wait for ever fails, late.
"""
import asyncio
import sys

PATIENCE_S = 15


class Link:
    def __init__(self, proxy, writer):
        self.word = proxy.word if proxy.swallows else None
        self.lost = False
        self.writers = [writer]

    def end(self):
        for writer in self.writers:
            writer.transport.abort()

    async def pump(self, reader, writer, upwards):
        while data := await reader.read(65536):
            if upwards and self.word and self.word in data and not self.lost:
                self.lost = True
                print("lost", flush=True)
                asyncio.get_running_loop().call_later(PATIENCE_S, self.end)
            if not self.lost:
                writer.write(data)

    async def run(self, reader, port):
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
            self.writers.append(up_writer)
            pumps = [asyncio.ensure_future(self.pump(reader, up_writer, True)),
                     asyncio.ensure_future(self.pump(up_reader, self.writers[0], False))]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            self.end()
            await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            self.end()


class Proxy:
    def __init__(self, port, word):
        self.port, self.word = port, word
        self.swallows = False
        self.links = set()

    async def serve(self, reader, writer):
        link = Link(self, writer)
        self.links.add(link)
        await link.run(reader, self.port)
        self.links.discard(link)

    def command(self, line):
        self.swallows = line == "on"
        for link in self.links:
            link.end()
        print(line, flush=True)


async def main():
    proxy = Proxy(int(sys.argv[1]), sys.argv[2].encode())
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    stdin = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    while line := await stdin.readline():
        proxy.command(line.decode().strip())


asyncio.run(main())
