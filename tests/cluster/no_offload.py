"""Turn checksum and segmentation offload of interfaces off, as `ethtool -K NAME tx off tso off gso off`.

Only then are frames on a virtual cable what a real one would carry.
"""

import ctypes
import fcntl
import socket
import struct
import sys

SIOCETHTOOL = 0x8946
STXCSUM, STSO, SGSO = 0x17, 0x1F, 0x24  # linux/ethtool.h

if __name__ == "__main__":
    with socket.socket() as any_socket:
        for interface in sys.argv[1:]:
            for command in (STXCSUM, STSO, SGSO):
                value = ctypes.create_string_buffer(struct.pack("II", command, 0))
                request = struct.pack("16sP16x", interface.encode(), ctypes.addressof(value))
                fcntl.ioctl(any_socket, SIOCETHTOOL, request)
