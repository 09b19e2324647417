"""What an engine and the replica around it tell each other about one request."""

from collections.abc import Callable

from api.ports.stream import Usage


class Work:
    """One request's way through a replica. This one knows no limits and waits for nobody."""

    def __init__(self) -> None:
        """Begin with nothing used."""
        self.usage = Usage(0)
        """What has been used; the engine keeps it true, also when it fails or is cancelled."""
        self.images = self.image_steps = self.image_pixel_steps = 0
        """Images that are done, and steps that have been taken, also for others."""
        self.count_steps_left: Callable[[], int] | None = None
        """How many steps of all its images are still to take, once the engine knows."""

    async def begin(self, tokens: int, size: int = 1) -> None:
        """Called once by the engine: the request is valid, and nothing has been computed yet.

        Args:
            tokens: the most that it can take, prompt and answer together.
            size: sequences that it keeps the engine busy with.

        Raises:
            RateLimited: its key has no more tokens.
            Overloaded: too many wait.
        """

    def note_steps(self, images: int, steps: int, pixels: int) -> None:
        """So many steps have been taken for each of so many images of so many pixels."""
        self.image_steps = images * steps
        self.image_pixel_steps = images * steps * pixels
