"""Reading a configuration at the edge: a run with a field that nothing reads is refused."""

import ast
import json

from ml_collections import ConfigDict

from jax_seg.system.names import did_you_mean


class Reader:
    """A read-only view of a configuration that remembers what was read.

    `reader.train.epochs` reads one field; `reader.section('model')` reads all fields of a section
    as a dict, to be passed on as keyword arguments, so that the callee refuses unknown
    fields.
    """

    def __init__(self, config, path="", read=None):
        self._config, self._path = config, path
        self._read = set() if read is None else read

    def __getattr__(self, name):
        if name not in self._config:
            hint = did_you_mean(name, self._config, shown=lambda near: repr(self._path + near))
            raise ValueError(f"The configuration has no field '{self._path}{name}'{hint}")
        value = self._config[name]
        path = self._path + name
        if isinstance(value, ConfigDict):
            return Reader(value, path + ".", self._read)
        self._read.add(path)
        return value

    def section(self, name):
        """All fields of a section as a plain dict."""
        reader = getattr(self, name)
        return {
            key: reader.section(key) if isinstance(value, ConfigDict) else getattr(reader, key)
            for key, value in reader._config.items()
        }

    def pick(self, fields, later=()):
        """Several sections as plain dicts: {section: names of its fields, or None for all}.

        The names in `later` may be absent, as in configurations from before there were these.
        """

        def some(section, names):
            names = [n for n in names if n not in later or n in self._config[section]]
            return {name: getattr(getattr(self, section), name) for name in names}

        return {
            section: self.section(section) if names is None else some(section, names)
            for section, names in fields.items()
        }

    def refuse_unread(self):
        """Raise ValueError naming the fields that were never read."""
        unread = sorted(set(flat(self._config)) - self._read)
        if unread:
            raise ValueError(
                f"Nothing reads the configuration's field '{unread[0]}'"
                + (f" (nor {', '.join(unread[1:])})" if unread[1:] else "")
                + "; remove it, or name the part that was meant to read it."
            )


def flat(config, path=""):
    """{'data.patch': value, …}: every leaf of a configuration by its dotted path."""
    leaves = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict | dict):
            leaves |= flat(value, f"{path}{key}.")
        else:
            leaves[path + key] = value
    return leaves


def parse_override(text):
    """('data.root', value) of a command line's --config.data.root=VALUE.

    Raises:
      ValueError: it has another form.
    """
    name, equals, value = text.removeprefix("--config.").partition("=")
    if not text.startswith("--config.") or not equals:
        raise ValueError(f"Unknown argument '{text}'; fields are --config.SECTION.FIELD=VALUE.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value  # a word


def override(config, values):
    """Set fields of a ConfigDict by their dotted paths.

    Returns:
      {dotted path: value} as the configuration holds them: as with launch.py, a single value of a
      tuple is a tuple of one, and a word or number is text where the field is.

    Raises:
      ValueError: a field does not exist, or its value has the wrong type.
    """
    known = flat(config)
    for field, value in values.items():
        if field not in known:
            hint = did_you_mean(field, known)
            raise ValueError(f"--config.{field}: the configuration has no such field{hint}")
        try:
            config.update_from_flattened_dict({field: _as_held(value, known[field])})
        except TypeError as error:
            raise ValueError(f"--config.{field}={value!r} has the wrong type: {error}.") from error
    held = flat(config)
    return {field: held[field] for field in values}


def _as_held(value, before):
    """A value of a command line in the type of the field's value before."""
    if isinstance(before, bool) and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    if isinstance(before, tuple) and isinstance(value, str | int | float):
        return (value,)
    if isinstance(before, str) and isinstance(value, int | float):
        return str(value)
    return value


def as_dict(config):
    """A configuration as JSON types, as stored in checkpoints: tuples become lists."""
    return json.loads(config.to_json())


def from_dict(stored):
    """The configuration that `as_dict` stored: lists become tuples again."""

    def tuples(value):
        if isinstance(value, dict):
            return {key: tuples(v) for key, v in value.items()}
        return tuple(tuples(v) for v in value) if isinstance(value, list) else value

    return ConfigDict(tuples(stored))


def differences(config, stored, ignore=(), defaults=None):
    """Lines 'field: stored → now' for the leaves in which two configurations differ.

    Args:
      config: ConfigDict.
      stored: of `as_dict`.
      ignore: paths of fields or sections that may differ.
      defaults: ConfigDict of defaults, which fields added since `stored` was written take.
    """
    now, then = flat(as_dict(config)), flat(stored)
    if defaults is not None:
        then = {k: v for k, v in flat(as_dict(defaults)).items() if k in now} | then
    return [
        f"{path}: {then.get(path, 'absent')} → {now.get(path, 'absent')}"
        for path in sorted(now.keys() | then.keys())
        if now.get(path, "absent") != then.get(path, "absent")
        and not any(path == i or path.startswith(i + ".") for i in ignore)
    ]
