"""Every error that Lighthouse raises on purpose; foreign errors are translated at the edges.

LighthouseError
├── UsageError            the caller asked for something that cannot be (exit status 2)
│   ├── ConfigError       a monitor's or channel's configuration; names the field
│   │   └── SealedError   one of its secrets is encrypted with a key that is not here
│   ├── PlanError         a plan's limit: interval, type, channel, number of subscriptions
│   └── NotFoundError     no such subscription or channel
├── SettingsError         the environment: a variable is missing, malformed or unknown
├── StoreError            PostgreSQL
│   ├── StoreUnavailable  cannot be reached, or went away; the same call may succeed later
│   ├── NotMigrated       reached, but its schema is not this version's
│   └── RejectedData      the database refuses a value; trying again changes nothing
├── ScheduleError         Redis
│   ├── ScheduleUnavailable
│   └── ScheduleMisconfigured  for example a server that evicts keys
└── LocalError            embedded servers: data directory in use, disk full, will not start

Each message is one line: what was wrong, where, and what to do.
"""


class LighthouseError(Exception):
    """Base of all; its text is one line fit for a person."""


class UsageError(LighthouseError):
    """What was asked for is wrong; nothing was changed."""


class ConfigError(UsageError):
    """A configuration is refused.

    `field` is the dotted path of the offending key, such as ``body_validation.regex``, or ``""``
    when the whole value is wrong.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field


class SealedError(ConfigError):
    """A stored secret cannot be opened here; whoever has its key can."""


class PlanError(UsageError):
    """A limit of the subscription's tier."""


class NotFoundError(UsageError):
    """No row with that id."""


class SettingsError(LighthouseError):
    """The environment cannot be used as it is."""


class StoreError(LighthouseError):
    """PostgreSQL did not do what was asked."""


class StoreUnavailable(StoreError):  # noqa: N818 - the field's own word
    """PostgreSQL cannot be reached now."""


class NotMigrated(StoreError):  # noqa: N818
    """The schema is missing, older or newer than this Lighthouse."""


class RejectedData(StoreError):  # noqa: N818
    """The database refuses the data itself."""


class ScheduleError(LighthouseError):
    """Redis did not do what was asked."""


class ScheduleUnavailable(ScheduleError):  # noqa: N818
    """Redis cannot be reached now."""


class ScheduleMisconfigured(ScheduleError):  # noqa: N818
    """Redis runs with a setting under which the fleet cannot be trusted."""


class LocalError(LighthouseError):
    """The embedded servers cannot run here as asked."""
