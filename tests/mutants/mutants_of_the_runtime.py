"""Mutants of what programs, sources and the host may do to the runtime; see :mod:`mutants`."""

from mutant import Mutant

NOTIFIED = "tests/integration/agent/test_service_manager.py"
MEMORY = "agent/dsops_agent/runtime/shared_memory.py"
REGIONS = "tests/unit/runtime/test_shared_memory.py"
FOLDER = "tests/unit/feed/test_feed_folder.py"

SHARED_MEMORY = (
    Mutant(
        "owner of a shared memory object",
        MEMORY,
        "if not self._may_share(found.st_uid):",
        "if False:",
        (f"{REGIONS}::test_a_refused_object_leaves_no_descriptor_open",),
    ),
    Mutant(
        "links below the folder of shared memory",
        MEMORY,
        "os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW",
        "os.O_RDWR | os.O_CLOEXEC",
        (f"{REGIONS}::test_neither_links_nor_pipes_nor_folders_are_followed",),
    ),
    Mutant(
        "slashes in the key of a shared memory object",
        MEMORY,
        'and "/" not in name',
        "",
        (f"{REGIONS}::test_a_key_is_a_name_and_no_path",),
    ),
    Mutant(
        "length of an object that its owner shrank",
        MEMORY,
        "            if not got:\n                raise self._shortened()\n",
        "            if not got:\n                break\n",
        (f"{REGIONS}::test_an_object_that_its_owner_shrinks_is_an_error_and_no_sigbus",),
    ),
    Mutant(
        "addresses for inference that other machines reach",
        "agent/dsops_agent/config_values.py",
        "    if not is_loopback:\n",
        "    if False:\n",
        ("tests/unit/agent/test_agent_config.py::test_a_mistake_names_the_file_and_the_key",),
    ),
)

SERVICE = (
    Mutant(
        "watchdog of a thread that hangs",
        "agent/dsops_agent/service_manager.py",
        "self._period_s is not None and not late and now_s",
        "self._period_s is not None and now_s",
        (f"{NOTIFIED}::test_one_loop_that_hangs_is_enough_to_feed_it_no_more_and_is_named",),
    ),
    Mutant(
        "heat",
        "agent/dsops_agent/runtime/throttle.py",
        "                self._is_hot = now_c > (most - COOLER_C if self._is_hot else most)\n",
        "                self._is_hot = False\n",
        ("tests/unit/runtime/test_throttle.py::test_heat_leaves_a_trickle_until_the_device_is_cooler_by_a_margin",),
    ),
    Mutant(
        "margin of heat",
        "agent/dsops_agent/runtime/throttle.py",
        "(most - COOLER_C if self._is_hot else most)",
        "most",
        ("tests/unit/runtime/test_throttle.py::test_heat_leaves_a_trickle_until_the_device_is_cooler_by_a_margin",),
    ),
)

SOURCES = (
    Mutant(
        "folders that somebody else put in the way",
        "agent/dsops_agent/feed/inbox.py",
        "os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW",
        "os.O_RDONLY | os.O_DIRECTORY",
        (f"{FOLDER}::test_who_fills_the_folder_does_not_choose_where_files_go",),
    ),
    Mutant(
        "folders held open",
        "agent/dsops_agent/feed/inbox.py",
        'return Path(f"/proc/self/fd/{self._held[name]}")',
        "return self._folder / name",
        (f"{FOLDER}::test_who_fills_the_folder_does_not_choose_where_files_go",),
    ),
    Mutant(
        "files that end the process again and again",
        "agent/dsops_agent/feed/inbox.py",
        "        if tries >= MOST_TRIES:\n            return False\n",
        "",
        (f"{FOLDER}::test_a_file_that_ends_the_process_is_given_up",),
    ),
    Mutant(
        "answers safe before the file moves",
        "agent/dsops_agent/feed/directory.py",
        "        self._inbox.answered(claimed, answers)\n",
        "",
        (f"{FOLDER}::test_a_kill_between_any_two_steps_loses_nothing_and_doubles_nothing",),
    ),
    Mutant(
        "repeated answers in a file",
        "agent/dsops_agent/feed/file_sink.py",
        "        if answer.is_again and answer.id in self._ids_before():\n            return\n",
        "",
        (f"{FOLDER}::test_a_kill_between_any_two_steps_loses_nothing_and_doubles_nothing",),
    ),
    Mutant(
        "arrays whose header lies",
        "agent/dsops_agent/feed/decode.py",
        " or int(np.prod(shape, dtype=object)) * dtype.itemsize > len(data):",
        ":",
        ("tests/unit/feed/test_feed_decoding.py::test_hostile_arrays_are_refused",),
    ),
    Mutant(
        "archives that unpack without end",
        "agent/dsops_agent/feed/decode.py",
        "            if entries[0].file_size > MAX_BYTES:\n",
        "            if False:\n",
        ("tests/unit/feed/test_feed_decoding.py::test_hostile_arrays_are_refused",),
    ),
)

RUNTIME: tuple[Mutant, ...] = (*SHARED_MEMORY, *SERVICE, *SOURCES)
