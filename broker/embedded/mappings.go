package embedded

import "github.com/nats-io/nats-server/v2/server"

// domainInterfaces are what the server maps from its JetStream domain to its own
// names in the account of each leaf connection that opens.
var domainInterfaces = [...]string{
	"INFO", "STREAM.>", "CONSUMER.>", "DIRECT.>", "META.>", "SERVER.>", "ACCOUNT.>", "$KV.>", "$OBJ.>",
}

// dropDomainMappings removes those mappings from the accounts, by key, that have
// no JetStream: there they lead nowhere, and each message of a link would be
// compared with each of them, which is more than a tenth of what it costs (ADR 12).
// Any change of an account's claims removes them too, a new connection brings
// them back.
func dropDomainMappings(srv *server.Server, keys []string) {
	js := srv.JetStreamConfig()
	if js == nil || js.Domain == "" {
		return
	}
	for _, key := range keys {
		a, err := srv.LookupAccount(key)
		if err != nil || a.JetStreamEnabled() {
			continue
		}
		for _, s := range domainInterfaces {
			a.RemoveMapping("$JS." + js.Domain + ".API." + s)
		}
	}
}
