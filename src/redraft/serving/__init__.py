"""`redraft serve`: an OpenAI-compatible endpoint that answers with a strategy.

    HTTP (starlette, uvicorn) ──Job──▶ Jobs ──many at once──▶ strategy ──▶ engine
          one thread                                 the main thread

The main thread owns the model. It takes the requests that wait and fit together, plays the strategy
on all of them in one batch, and tells each what is written and what it came to. A signal interrupts
it wherever it is (`redraft.interruption`).
"""
