"""A workload that uses py-spiffe: gets what it is entitled to and writes it down, one JSON line."""

import json
import os
import time

from spiffe import JwtSvid, SpiffeId, WorkloadApiClient


def main():
    with WorkloadApiClient() as client:
        svid = client.fetch_x509_svid()
        bundles = client.fetch_x509_bundles()
        bundle = bundles.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
        token = client.fetch_jwt_svid(audience={"api"})
        validated = client.validate_jwt_svid(token.token, audience="api")
        keys = client.fetch_jwt_bundles().get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
        checked = JwtSvid.parse_and_validate(token.token, keys, {"api"})
        try:
            other = SpiffeId(str(svid.spiffe_id) + "-other")
            client.fetch_jwt_svid(audience={"api"}, subject=other)
            refused = ""
        except Exception as err:
            refused = repr(err)
        line = {
            "x509": str(svid.spiffe_id),
            "jwt": str(token.spiffe_id),
            "validated": str(validated.spiffe_id),
            "checked": str(checked.spiffe_id),
            "roots": len(bundle.x509_authorities),
            "other": refused,
        }
    with open(os.path.join(os.environ["KUBEEDGE_TEST_OUT"], "said"), "a") as said:
        said.write(json.dumps(line) + "\n")
    time.sleep(3600)


main()
