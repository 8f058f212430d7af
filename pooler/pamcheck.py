"""Checks a password with PAM, Linux's pluggable authentication modules. Blocks: for a thread.

As PostgreSQL does: the modules hear the client's address, are given the password once, and the
account must be in order (`pam_acct_mgmt`); no session is opened.

Source: `CheckPAMAuth` in PostgreSQL's `auth.c`; pam(3).
"""

from typing import Final

_AUTH_ERR: Final = 7  # PAM_AUTH_ERR


def pam_check(service: str, user: str, address: str, password: str) -> str:
    """Say why this is not the user's password, "" if it is."""
    import pamela  # an extra

    if not password or "\0" in password or "\0" in user:
        return "a name or password that PAM does not take"
    try:
        answers = pamela.new_simple_password_conv((password,), "utf-8")
        handle = pamela.pam_start(service, user, conv_func=answers, encoding="utf-8")
    except (pamela.PAMError, UnicodeEncodeError):
        return "PAM could not be started"
    code = _AUTH_ERR
    try:
        if address:
            handle.set_item(pamela.PAM_RHOST, address)
        code = pamela.PAM_AUTHENTICATE(handle, 0)
        if code == 0:
            code = pamela.PAM_ACCT_MGMT(handle, 0)
        return "" if code == 0 else f"PAM: {pamela.pam_strerror(handle, code)}"
    except pamela.PAMError:  # of set_item
        return "PAM did not take the address"
    finally:
        pamela.PAM_END(handle, code)
