import os
import socket
import stat
from pathlib import Path

import pytest

from deployments.transport.addresses import (
    Endpoint,
    find_endpoint,
    is_on_this_node,
    make_socket_path,
    remove_socket,
)


def test_socket_file_is_used_where_it_is_found(tmp_path: Path) -> None:
    local = f"ipc://{tmp_path}"

    assert find_endpoint(local) == Endpoint(local, None)
    assert find_endpoint(f"{local} tcp://10.0.0.1:1#key") == Endpoint(local, None)
    assert is_on_this_node(local)


def test_port_and_its_key_are_used_from_another_node(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/none tcp://10.0.0.1:1#k#y"

    assert find_endpoint(address) == Endpoint("tcp://10.0.0.1:1", b"k#y")
    assert not is_on_this_node(address)


def test_receiver_that_has_gone_is_looked_for_at_its_socket_file(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/none"

    assert find_endpoint(address) == Endpoint(address, None)


def test_folder_of_a_socket_is_for_this_account_only(tmp_path: Path) -> None:
    path = make_socket_path(str(tmp_path))

    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    remove_socket(path)
    assert list(tmp_path.iterdir()) == []


def test_path_is_short_enough_for_a_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()

    path = make_socket_path(str(folder))

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    assert path.is_relative_to("/tmp")
    assert list(folder.iterdir()) == []
    remove_socket(path)


def make_old(path: Path) -> None:
    os.utime(path.parent, (0, 0))


@pytest.mark.parametrize("has_file", [True, False])
def test_socket_of_a_killed_process_is_removed(tmp_path: Path, has_file: bool) -> None:
    dead = make_socket_path(str(tmp_path))
    if has_file:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(dead))
            listener.listen()
    make_old(dead)

    path = make_socket_path(str(tmp_path))

    assert list(tmp_path.iterdir()) == [path.parent]


def test_socket_in_use_is_kept_and_one_that_may_be_about_to_listen(tmp_path: Path) -> None:
    new, used = make_socket_path(str(tmp_path)), make_socket_path(str(tmp_path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(used))
        listener.listen()
        make_old(used)

        make_socket_path(str(tmp_path))

    assert new.parent.is_dir()
    assert used.exists()
