"""What door A asks the registry about the files of a model version."""

from collections.abc import Mapping

from mlflow_proxy.access.sharing import Caller
from mlflow_proxy.errors import BadGatewayError, NotShareableError, TooLargeToShareError
from mlflow_proxy.mlflow_api.artifact_paths import ModelFile
from mlflow_proxy.pipeline import Pipeline
from mlflow_proxy.reading.answer import Answer
from mlflow_proxy.reading.writes import Writes


class FileRegistry:
    """Asks on behalf of clients, through the pipeline."""

    def __init__(self, pipeline: Pipeline, writes: Writes) -> None:
        self._pipeline = pipeline
        self._writes = writes

    async def page(self, caller: Caller, directory: ModelFile, token: str, deadline: float) -> Answer:
        """Ask for the page of a directory that ``token`` names, the first if it is empty.

        This and ``signed`` are as ``Pipeline.ask``; an answer that cannot be held is an error.
        """
        more = {"page_token": token} if token else {}
        return await self._ask(caller, "list-artifacts", directory, more, deadline)

    async def signed(self, caller: Caller, file: ModelFile, deadline: float) -> Answer:
        """Ask for the signed URL of a file."""
        return await self._ask(caller, "get-signed-download-uri", file, {}, deadline)

    async def disown(self, answer: Answer) -> None:
        """Forget an answer that proved wrong, so that it is asked for anew."""
        await self._writes.disown(answer)

    async def _ask(
        self, caller: Caller, endpoint: str, file: ModelFile, more: Mapping[str, str], deadline: float
    ) -> Answer:
        asked = {"name": file.model, "version": file.version, "path": file.path, **more}
        try:
            return await self._pipeline.ask(caller, f"model-versions/{endpoint}", asked, deadline)
        except TooLargeToShareError as error:
            raise BadGatewayError(
                f"The workspace's {endpoint} answer is larger than cache.max_entry_bytes allows ({error})."
            ) from error
        except NotShareableError as error:
            raise BadGatewayError(f"The workspace's {endpoint} answer came {error}.") from error
