"""FastAPI and SQLAlchemy with asyncpg: their defaults, prepared statements included, as they are.

    DATABASE_URL=postgresql+asyncpg://app:secret@127.0.0.1:6432/app uvicorn fastapi_app:app

No `statement_cache_size=0`, no `NullPool`: named statements work in transaction mode.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

engine = create_async_engine(os.environ["DATABASE_URL"])
sessions = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    """What all tables have in common."""


class Note(Base):
    """A note."""

    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make the table before the first request; a real application has migrations."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


async def session() -> AsyncIterator[AsyncSession]:
    """A transaction for each request."""
    async with sessions.begin() as session:
        yield session


Session = Annotated[AsyncSession, Depends(session)]


@app.post("/notes", status_code=201)
async def write(text: str, session: Session) -> dict[str, int]:
    """Keep a note."""
    note = Note(text=text)
    session.add(note)
    await session.flush()
    return {"id": note.id}


@app.get("/notes/{number}")
async def read(number: int, session: Session) -> dict[str, str]:
    """Give it back."""
    note = await session.get(Note, number)
    if note is None:
        raise HTTPException(404)
    return {"text": note.text}
