"""The words of the templates, one set a language; a test holds both to the same reasons."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrases:
    """Everything that an alert says in one language; braces are filled in."""

    down_title: str
    down: str
    was_up: str
    up_title: str
    up: str
    was_down: str
    reason: str
    detail: str
    target: str
    http_status: str
    latency: str
    test_title: str
    test_message: str
    lost_title: str
    lost: str
    was_down_title: str
    was_down_from: str
    still_down_title: str
    still_down: str
    slow_title: str
    slow: str
    fast_title: str
    fast: str
    low_title: str
    critical_title: str
    less_critical_title: str
    low: str
    enough_title: str
    enough: str
    still_on: str
    certificate_title: str
    certificate_expired_title: str
    certificate: str
    subject: str
    issuer: str
    fingerprint: str
    flapping_title: str
    flapping: str
    flapping_now: Mapping[str, str]  #: by the value of `Verdict`
    settled: str
    coverage_title: str
    coverage: str
    covered_title: str
    covered: str
    summary_title: str
    summary: str
    summary_more: str
    limit: str
    day: str  #: one of them
    days: str
    decimal: str  #: the mark of decimals
    kinds: Mapping[str, str]  #: by the value of `AlertType`
    reasons: Mapping[str, str]  #: by the value of `Reason`


ENGLISH = Phrases(
    down_title="{name} is down",
    down="The check of {at} failed.",
    was_up="It had been up for {lasted}.",
    up_title="{name} is up again",
    up="The check of {at} succeeded.",
    was_down="It was down for {lasted}.",
    reason="Reason",
    detail="Detail",
    target="Target",
    http_status="HTTP status",
    latency="Latency",
    test_title="Test message from Lighthouse",
    test_message="This channel works: alerts will arrive here.",
    lost_title="{name}: the {channel} channel has been switched off",
    lost="Its service says that the address is gone. Repair it, then switch the channel on again.",
    was_down_title="{name} was down for {lasted} and is up again",
    was_down_from="It was down from {since} to {at}.",
    still_down_title="{name} is still down",
    still_down="It has been down since {since}, for {lasted}.",
    slow_title="{name} is slow",
    slow="The median of its last {checks} successful checks is {median_ms} ms; {warn_ms} ms are"
    " allowed.",
    fast_title="{name} is no longer slow",
    fast="The median of its last {checks} successful checks is {median_ms} ms.",
    low_title="{name}: the balance is low",
    critical_title="{name}: the balance is critically low",
    less_critical_title="{name}: the balance is low, but no longer critical",
    low="The check of {at} found it below its threshold.",
    enough_title="{name}: the balance is enough again",
    enough="The check of {at} found it above its thresholds.",
    still_on="It has been so since {since}, for {lasted}.",
    certificate_title="{name}: the certificate expires in {left}",
    certificate_expired_title="{name}: the certificate has expired",
    certificate="It is valid until {expires}.",
    subject="Subject",
    issuer="Issuer",
    fingerprint="SHA-256",
    flapping_title="{name} is flapping",
    flapping="It has changed {changes} times within {within}. Its changes are not told any more"
    " until it has held still for {calm}; then its state is.",
    flapping_now={"up": "At the moment it is up.", "down": "At the moment it is down."},
    settled="It had been flapping and now holds still.",
    coverage_title="{name}: too few checks were made",
    coverage="From {since} to {until}, {judged} of {due} due checks came to a judgement"
    " ({coverage}); {minimum} are wanted. The fault is ours, not the target's.",
    covered_title="{name}: enough checks are made again",
    covered="From {since} to {until}, {judged} of {due} due checks came to a judgement"
    " ({coverage}).",
    summary_title="{count} more alerts in the hour from {since}",
    summary="The limit of alerts an hour was reached, so these were not told one by one.",
    summary_more="and {count} more",
    limit="The limit of alerts an hour is reached: what else happens before {until} comes as one"
    " summary.",
    day="day",
    days="days",
    decimal=".",
    kinds={
        "downtime": "down",
        "recovery": "over again",
        "high_latency": "slow",
        "low_balance": "low balance",
        "certificate_expiry": "certificate expires",
        "operator": "fleet",
        "flapping": "flapping",
        "coverage": "too few checks",
        "summary": "summary",
    },
    reasons={
        "dns_not_found": "the host's name does not exist",
        "connection_refused": "the connection was refused",
        "connection_reset": "the connection was reset",
        "unreachable": "the host cannot be reached",
        "tls_expired": "the certificate has expired",
        "tls_wrong_host": "the certificate is for another host",
        "tls_self_signed": "the certificate is self-signed",
        "tls_untrusted": "the certificate is not trusted",
        "tls_handshake": "the TLS handshake failed",
        "protocol_error": "the answer breaks the protocol",
        "too_many_redirects": "too many redirects",
        "forbidden_address": "the address may not be checked",
        "status_code": "unexpected HTTP status",
        "header": "a header is not as expected",
        "body": "the body is not as expected",
        "body_too_large": "the body is too large",
        "max_latency": "slower than allowed",
        "certificate_expiry": "the certificate expires soon",
        "http_version": "another version of HTTP than demanded",
        "token": "no access token could be had",
        "closed": "the server closed the connection",
        "balance_low": "the balance is low",
        "balance_critical": "the balance is critically low",
        "timeout": "no answer in time",
        "prober_resolver": "our resolver did not answer: nothing is known of the target",
        "prober_network": "our network failed: nothing is known of the target",
        "prober_descriptors": "our prober ran out of descriptors: nothing is known of the target",
        "prober_ports": "our prober ran out of ports: nothing is known of the target",
        "prober_memory": "our prober ran out of memory: nothing is known of the target",
        "prober_proxy": "the proxy failed: nothing is known of the target",
        "prober_config": "the configuration cannot be checked with",
        "prober_rpc": "the chain's RPC failed: nothing is known of the balance",
        "prober_chain": "the RPC serves another chain, or the token is not on it",
        "prober_browser": "our browser failed: nothing is known of the target",
        "prober_bug": "our prober has a fault: nothing is known of the target",
        "prober_unproved": "our prober could not prove its own health",
        "prober_unconfirmed": "our prober did not reach it, another one of ours did",
        "unstorable": "the result could not be stored",
    },
)

SPANISH = Phrases(
    down_title="{name} está caído",
    down="La comprobación de {at} falló.",
    was_up="Llevaba {lasted} en funcionamiento.",
    up_title="{name} funciona de nuevo",
    up="La comprobación de {at} tuvo éxito.",
    was_down="Estuvo caído {lasted}.",
    reason="Motivo",
    detail="Detalle",
    target="Objetivo",
    http_status="Estado HTTP",
    latency="Latencia",
    test_title="Mensaje de prueba de Lighthouse",
    test_message="Este canal funciona: las alertas llegarán aquí.",
    lost_title="{name}: el canal {channel} se ha desactivado",
    lost="Su servicio dice que la dirección ya no existe. Corríjala y vuelva a activar el canal.",
    was_down_title="{name} estuvo caído {lasted} y funciona de nuevo",
    was_down_from="Estuvo caído desde {since} hasta {at}.",
    still_down_title="{name} sigue caído",
    still_down="Está caído desde {since}, hace {lasted}.",
    slow_title="{name} va lento",
    slow="La mediana de sus últimas {checks} comprobaciones con éxito es de {median_ms} ms; se"
    " permiten {warn_ms} ms.",
    fast_title="{name} ya no va lento",
    fast="La mediana de sus últimas {checks} comprobaciones con éxito es de {median_ms} ms.",
    low_title="{name}: el saldo es bajo",
    critical_title="{name}: el saldo es críticamente bajo",
    less_critical_title="{name}: el saldo es bajo, pero ya no crítico",
    low="La comprobación de {at} lo encontró por debajo de su umbral.",
    enough_title="{name}: el saldo vuelve a ser suficiente",
    enough="La comprobación de {at} lo encontró por encima de sus umbrales.",
    still_on="Está así desde {since}, hace {lasted}.",
    certificate_title="{name}: el certificado caduca en {left}",
    certificate_expired_title="{name}: el certificado ha caducado",
    certificate="Es válido hasta {expires}.",
    subject="Titular",
    issuer="Emisor",
    fingerprint="SHA-256",
    flapping_title="{name} está inestable",
    flapping="Ha cambiado {changes} veces en {within}. No se avisará de sus cambios hasta que se"
    " mantenga estable durante {calm}; entonces se avisará de su estado.",
    flapping_now={"up": "En este momento funciona.", "down": "En este momento está caído."},
    settled="Estaba inestable y ahora se mantiene estable.",
    coverage_title="{name}: se hicieron demasiado pocas comprobaciones",
    coverage="De {since} a {until}, {judged} de {due} comprobaciones previstas dieron un resultado"
    " ({coverage}); se desea {minimum}. El fallo es nuestro, no del servicio vigilado.",
    covered_title="{name}: vuelven a hacerse suficientes comprobaciones",
    covered="De {since} a {until}, {judged} de {due} comprobaciones previstas dieron un resultado"
    " ({coverage}).",
    summary_title="{count} alertas más en la hora desde {since}",
    summary="Se alcanzó el límite de alertas por hora; por eso no se avisó de cada una.",
    summary_more="y {count} más",
    limit="Se alcanzó el límite de alertas por hora: lo que ocurra antes de {until} llegará como un"
    " solo resumen.",
    day="día",
    days="días",
    decimal=",",
    kinds={
        "downtime": "caído",
        "recovery": "terminado",
        "high_latency": "lento",
        "low_balance": "saldo bajo",
        "certificate_expiry": "certificado por caducar",
        "operator": "flota",
        "flapping": "inestable",
        "coverage": "pocas comprobaciones",
        "summary": "resumen",
    },
    reasons={
        "dns_not_found": "el nombre del servidor no existe",
        "connection_refused": "la conexión fue rechazada",
        "connection_reset": "la conexión se cortó",
        "unreachable": "no se puede llegar al servidor",
        "tls_expired": "el certificado ha caducado",
        "tls_wrong_host": "el certificado es de otro servidor",
        "tls_self_signed": "el certificado está autofirmado",
        "tls_untrusted": "el certificado no es de confianza",
        "tls_handshake": "falló la negociación TLS",
        "protocol_error": "la respuesta no respeta el protocolo",
        "too_many_redirects": "demasiadas redirecciones",
        "forbidden_address": "no se permite comprobar esa dirección",
        "status_code": "estado HTTP inesperado",
        "header": "una cabecera no es la esperada",
        "body": "el contenido no es el esperado",
        "body_too_large": "el contenido es demasiado grande",
        "max_latency": "más lento de lo permitido",
        "certificate_expiry": "el certificado caduca pronto",
        "http_version": "otra versión de HTTP que la exigida",
        "token": "no se pudo obtener un token de acceso",
        "closed": "el servidor cerró la conexión",
        "balance_low": "el saldo es bajo",
        "balance_critical": "el saldo es crítico",
        "timeout": "no respondió a tiempo",
        "prober_resolver": "nuestro DNS no respondió: no se sabe nada del servidor",
        "prober_network": "falló nuestra red: no se sabe nada del servidor",
        "prober_descriptors": "a la sonda le faltaron descriptores: no se sabe nada del servidor",
        "prober_ports": "a nuestra sonda le faltaron puertos: no se sabe nada del servidor",
        "prober_memory": "a nuestra sonda le faltó memoria: no se sabe nada del servidor",
        "prober_proxy": "falló el proxy: no se sabe nada del servidor",
        "prober_config": "no se puede comprobar con esta configuración",
        "prober_rpc": "falló el RPC de la cadena: no se conoce el saldo",
        "prober_chain": "el RPC es de otra cadena, o el token no existe en ella",
        "prober_browser": "falló nuestro navegador: no se sabe nada del servidor",
        "prober_bug": "nuestra sonda tiene un fallo: no se sabe nada del servidor",
        "prober_unproved": "nuestra sonda no pudo demostrar su propia salud",
        "prober_unconfirmed": "nuestra sonda no llegó a él y otra de las nuestras sí",
        "unstorable": "no se pudo guardar el resultado",
    },
)
