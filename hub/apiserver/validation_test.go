package apiserver_test

import (
	"context"
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/hub/apiserver/apiservertest"
)

// manifests are accepted as they are; the cases change them.
var manifests = map[string]string{
	"MessagingTopology": `
metadata: {name: valid}
spec:
  groups: [{name: core, clusters: [a, b]}, {name: edge, selector: {matchLabels: {tier: edge}}}]
  links: [{name: mesh, type: Mesh, groups: [core]}]
  accounts: [{name: orders, namespaces: [shop]}]`,
	"MemberCluster": `
metadata: {name: valid}`,
	"JoinToken": `
metadata: {name: valid}
spec:
  secretHash: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
  expiresAt: "2030-01-02T03:04:05Z"
  cluster: edge-*`,
	"Stream": `
metadata: {name: valid, namespace: shop}
spec: {account: orders, placement: {group: core}, subjects: [orders.>]}`,
	"Bridge": `
metadata: {name: valid, namespace: shop}
spec: {account: orders, type: Events, from: {group: core}, to: {group: edge}, subjects: [orders.>]}`,
}

const (
	wrongName  = "the name must be a DNS label"
	badName    = `should match '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'`
	badItem    = "should match"
	badPattern = "should match"
	required   = "Required value"
	unknownFor = "Unsupported value"
	tooLong    = "Too long"
	tooMany    = "Too many"
	tooFew     = "should have at least"
	twice      = "Duplicate value"
	oneOf      = "set exactly one of group, clusters and selector"
)

func long(n int) string { return strings.Repeat("x", n) }

// validations: a change of a valid object, as a merge patch, and a part of the
// message that refuses it. Nothing: it is accepted.
var validations = map[string]map[string]struct{ patch, want string }{
	"MemberCluster": {
		"bare":               {``, ``},
		"longest name":       {`metadata: {name: ` + long(63) + `}`, ``},
		"name too long":      {`metadata: {name: ` + long(64) + `}`, wrongName},
		"name with a dot":    {`metadata: {name: a.b}`, wrongName},
		"endpoints":          {`spec: {endpoints: ["nats.example.com:7422", "10.0.0.1:1", "[::1]:7422", "[fe80::1]:443"]}`, ``},
		"endpoint: no port":  {`spec: {endpoints: [nats.example.com]}`, badItem},
		"endpoint: scheme":   {`spec: {endpoints: ["tls://nats.example.com:7422"]}`, badItem},
		"endpoint: path":     {`spec: {endpoints: ["nats.example.com:7422/x"]}`, badItem},
		"endpoint: user":     {`spec: {endpoints: ["u:p@nats.example.com:443"]}`, badItem},
		"endpoint: space":    {`spec: {endpoints: ["nats.example.com:7422 "]}`, badItem},
		"endpoint: too long": {`spec: {endpoints: ["` + long(300) + `:7422"]}`, "may not be more than 300"},
		"endpoint: twice":    {`spec: {endpoints: ["a:1", "a:1"]}`, twice},
		"endpoints: 17":      {`spec: {endpoints: ["` + strings.Join(numbered("a:", 17), `", "`) + `"]}`, tooMany},
	},
	"JoinToken": {
		"as it is":               {``, ``},
		"name with a dot":        {`metadata: {name: a.b}`, wrongName},
		"hash too short":         {`spec: {secretHash: abc}`, badPattern},
		"hash in capitals":       {`spec: {secretHash: ` + strings.Repeat("A", 64) + `}`, badPattern},
		"no hash":                {`spec: {secretHash: null}`, required},
		"no expiry":              {`spec: {expiresAt: null}`, required},
		"expiry: zone":           {`spec: {expiresAt: "2030-01-02T03:04:05.123+02:00"}`, ``},
		"expiry: no time":        {`spec: {expiresAt: "2030-01-02"}`, badPattern},
		"expiry: no such day":    {`spec: {expiresAt: "2030-02-30T03:04:05Z"}`, "date-time"},
		"expiry: small letters":  {`spec: {expiresAt: "2030-01-02t03:04:05z"}`, badPattern},
		"expiry: no such zone":   {`spec: {expiresAt: "2030-01-02T03:04:05+99:99"}`, badPattern},
		"expiry: no such second": {`spec: {expiresAt: "2030-01-02T03:04:60Z"}`, "date-time"},
		"most uses":              {`spec: {maxUses: 10000}`, ``},
		"no uses":                {`spec: {maxUses: 0}`, "should be greater than or equal to 1"},
		"too many uses":          {`spec: {maxUses: 10001}`, "should be less than or equal to 10000"},
		"one cluster":            {`spec: {cluster: a}`, ``},
		"any cluster":            {`spec: {cluster: "*"}`, ``},
		"no cluster":             {`spec: {cluster: null}`, required},
		"cluster: capitals":      {`spec: {cluster: Edge}`, badPattern},
		"cluster: dot":           {`spec: {cluster: edge.1}`, badPattern},
		"cluster: begins with -": {`spec: {cluster: "-*"}`, badPattern},
		"cluster: too long":      {`spec: {cluster: ` + long(64) + `}`, "may not be more than 63"},
		"labels":                 {`spec: {labels: {tier: edge, "example.com/site": "7"}}`, ``},
		"33 labels":              {`spec: {labels: {` + strings.Join(numbered("l", 33), ": x, ") + `: x}}`, "Too many"},
	},
	"MessagingTopology": {
		"as it is":                        {``, ``},
		"name with a dot":                 {`metadata: {name: a.b}`, wrongName},
		"name too long":                   {`metadata: {name: ` + long(64) + `}`, wrongName},
		"no groups":                       {`spec: {groups: []}`, tooFew},
		"no spec":                         {`spec: null`, required},
		"group: neither":                  {`spec: {groups: [{name: a}]}`, "set exactly one of clusters and selector"},
		"group: both":                     {`spec: {groups: [{name: a, clusters: [x], selector: {}}]}`, "set exactly one of clusters and selector"},
		"group: everybody":                {`spec: {groups: [{name: a, selector: {}}]}`, ``},
		"group: no clusters":              {`spec: {groups: [{name: a, clusters: []}]}`, tooFew},
		"group: wrong cluster":            {`spec: {groups: [{name: a, clusters: [A]}]}`, badName},
		"group: cluster twice":            {`spec: {groups: [{name: a, clusters: [x, x]}]}`, twice},
		"group: wrong name":               {`spec: {groups: [{name: a_b, clusters: [x]}]}`, badName},
		"group: twice":                    {`spec: {groups: [{name: a, clusters: [x]}, {name: a, clusters: [y]}]}`, twice},
		"65 groups":                       {`spec: {groups: [` + strings.Join(numbered("{clusters: [x], name: g", 65), "}, ") + `}]}`, tooMany},
		"broker":                          {group(`broker: {storage: 20Gi, memory: 0.5Gi, maxPayload: 4194304, maxConnections: 10, durability: Always}`), ``},
		"broker: storage 0":               {group(`broker: {storage: 0}`), "storage is more than 0"},
		"broker: storage '0Gi'":           {group(`broker: {storage: 0Gi}`), badPattern},
		"broker: storage -1":              {group(`broker: {storage: -1}`), "storage is more than 0"},
		"broker: storage '-1Gi'":          {group(`broker: {storage: -1Gi}`), badPattern},
		"broker: memory -1":               {group(`broker: {memory: -1}`), "memory is more than 0"},
		"broker: maxPayload -1":           {group(`broker: {maxPayload: -1}`), "maxPayload is more than 0"},
		"broker: unit":                    {group(`broker: {storage: 10GB}`), badPattern},
		"broker: exponent":                {group(`broker: {storage: 1e1.5}`), badPattern},
		"broker: milli":                   {group(`broker: {storage: 100m}`), badPattern},
		"broker: connections 0":           {group(`broker: {maxConnections: 0}`), "greater than or equal to 1"},
		"broker: replicas 3":              {group(`broker: {replicas: 3}`), ``},
		"broker: replicas 2":              {group(`broker: {replicas: 2}`), unknownFor},
		"broker: replicas 7":              {group(`broker: {replicas: 7}`), unknownFor},
		"broker: replicas in an override": {group(`overrides: [{cluster: a, broker: {replicas: 5}}]`), ``},
		"autoscaling":                     {group(`broker: {autoscaling: {max: 3, targets: {connections: 1000}}}`), ``},
		"autoscaling: all":                {group(`broker: {autoscaling: {min: 3, max: 5, targets: {messageRate: 9, storagePercent: 80, cpuPercent: 70}, stabilization: {upSeconds: 0, downSeconds: 60}}}`), ``},
		"autoscaling: min is max":         {group(`broker: {autoscaling: {min: 3, max: 3, targets: {connections: 1}}}`), "max is more than min"},
		"autoscaling: max 4":              {group(`broker: {autoscaling: {max: 4, targets: {connections: 1}}}`), unknownFor},
		"autoscaling: no max":             {group(`broker: {autoscaling: {targets: {connections: 1}}}`), required},
		"autoscaling: no target":          {group(`broker: {autoscaling: {max: 3, targets: {}}}`), "targets"},
		"autoscaling: percent":            {group(`broker: {autoscaling: {max: 3, targets: {storagePercent: 101}}}`), "less than or equal to 100"},
		"autoscaling: and replicas":       {group(`broker: {replicas: 3, autoscaling: {max: 3, targets: {connections: 1}}}`), "not both"},
		"broker: durability":              {group(`broker: {durability: Never}`), unknownFor},
		"override":                        {group(`overrides: [{cluster: a, broker: {storage: 1Gi}}]`), ``},
		"override: storage":               {group(`overrides: [{cluster: a, broker: {storage: -1}}]`), "storage is more than 0"},
		"override: wrong cluster":         {group(`overrides: [{cluster: A, broker: {}}]`), badName},
		"override: twice":                 {group(`overrides: [{cluster: a, broker: {}}, {cluster: a, broker: {}}]`), twice},

		"link: mesh without groups":   {link(`type: Mesh`), "set groups for Mesh, Ring and Chain"},
		"link: mesh of no groups":     {link(`type: Mesh, groups: []`), tooFew},
		"link: wrong group":           {link(`type: Mesh, groups: [A]`), badName},
		"link: group twice":           {link(`type: Mesh, groups: [core, core]`), twice},
		"link: ring":                  {link(`type: Ring, groups: [core], order: [b, a]`), ``},
		"link: chain":                 {link(`type: Chain, groups: [core, edge], order: [b, a]`), ``},
		"link: order of a mesh":       {link(`type: Mesh, groups: [core], order: [a]`), "order is for Ring and Chain only"},
		"link: wrong order":           {link(`type: Ring, groups: [core], order: [A]`), badName},
		"link: edges":                 {link(`type: Edges, edges: [{a: a, b: b}]`), ``},
		"link: edges without":         {link(`type: Edges`), "set edges for type Edges"},
		"link: edges with groups":     {link(`type: Edges, edges: [{a: a, b: b}], groups: [core]`), "set groups for Mesh, Ring and Chain"},
		"link: edge to itself":        {link(`type: Edges, edges: [{a: a, b: a}]`), "an edge joins two different members"},
		"link: edge to a wrong name":  {link(`type: Edges, edges: [{a: a, b: B}]`), badName},
		"link: edge to nobody":        {link(`type: Edges, edges: [{a: a}]`), required},
		"link: mesh with edges":       {link(`type: Mesh, groups: [core], edges: [{a: a, b: b}]`), "set edges for type Edges"},
		"link: hub and spoke":         {link(`type: HubAndSpoke, hubAndSpoke: {hubs: core, spokes: edge, parents: Nearest, maxParents: 4, order: [a], nearestBy: [zone]}`), ``},
		"link: hub and spoke without": {link(`type: HubAndSpoke`), "set hubAndSpoke for type HubAndSpoke"},
		"link: mesh with hubs":        {link(`type: Mesh, groups: [core], hubAndSpoke: {hubs: core, spokes: edge}`), "set hubAndSpoke for type HubAndSpoke"},
		"link: no hubs":               {link(`type: HubAndSpoke, hubAndSpoke: {hubs: "", spokes: edge}`), badName},
		"link: no spokes":             {link(`type: HubAndSpoke, hubAndSpoke: {hubs: core}`), required},
		"link: 5 parents":             {link(`type: HubAndSpoke, hubAndSpoke: {hubs: core, spokes: edge, maxParents: 5}`), "less than or equal to 4"},
		"link: choice of parents":     {link(`type: HubAndSpoke, hubAndSpoke: {hubs: core, spokes: edge, parents: Any}`), unknownFor},
		"link: empty label":           {link(`type: HubAndSpoke, hubAndSpoke: {hubs: core, spokes: edge, nearestBy: [""]}`), "at least 1 chars"},
		"link: unknown type":          {link(`type: Star, groups: [core]`), unknownFor},
		"link: no type":               {link(`groups: [core]`), required},
		"link: wrong name":            {`spec: {links: [{name: L, type: Mesh, groups: [core]}]}`, badName},
		"link: twice":                 {`spec: {links: [{name: l, type: Mesh, groups: [core]}, {name: l, type: Ring, groups: [core]}]}`, twice},

		"account":                    {account(`namespaces: ["*", shop], replies: PerCluster, limits: {connections: 0, subscriptions: 1, storage: 0, memory: 1Gi, streams: 0, consumers: 5}`), ``},
		"account: nobody":            {account(`namespaces: []`), tooFew},
		"account: no namespaces":     {account(`replies: Shared`), required},
		"account: wrong namespace":   {account(`namespaces: [sh*]`), badItem},
		"account: namespace twice":   {account(`namespaces: [a, a]`), twice},
		"account: replies":           {account(`namespaces: [a], replies: None`), unknownFor},
		"account: connections -1":    {account(`namespaces: [a], limits: {connections: -1}`), "greater than or equal to 0"},
		"account: storage -1":        {account(`namespaces: [a], limits: {storage: -1}`), "storage is at least 0"},
		"account: memory -1":         {account(`namespaces: [a], limits: {memory: -1}`), "memory is at least 0"},
		"account: storage '-1Gi'":    {account(`namespaces: [a], limits: {storage: -1Gi}`), badPattern},
		"account: more than integer": {account(`namespaces: [a], limits: {streams: 9223372036854775808}`), "int64"},
		"account: wrong name":        {`spec: {accounts: [{name: _agent, namespaces: [a]}]}`, badName},
		"account: twice":             {`spec: {accounts: [{name: a, namespaces: [a]}, {name: a, namespaces: [b]}]}`, twice},
	},
	"Stream": {
		"as it is":              {``, ``},
		"everything":            {`spec: {topology: t, name: ORDERS_1-x, subjects: ["a", "a.*.b", "a.>", "$KV.x.>", ">"], retention: WorkQueue, storage: Memory, maxBytes: 1.5Gi, maxMessages: 1, maxMessagesPerSubject: 1, maxAge: 1h30m0.5s, discard: New, duplicateWindow: 2m0s, onRemoval: Delete}`, ``},
		"no account":            {`spec: {account: null}`, required},
		"wrong account":         {`spec: {account: Orders}`, badName},
		"account too long":      {`spec: {account: ` + long(64) + `}`, "may not be more than 63"},
		"wrong topology":        {`spec: {topology: a.b}`, badName},
		"name of the object":    {`metadata: {name: a.b}`, "set spec.name"},
		"name of the stream":    {`{metadata: {name: a.b}, spec: {name: AB}}`, ``},
		"long name":             {`metadata: {name: ` + long(65) + `}`, "set spec.name"},
		"wrong name":            {`spec: {name: a.b}`, badPattern},
		"name too long":         {`spec: {name: ` + long(65) + `}`, badPattern},
		"no placement":          {`spec: {placement: null}`, required},
		"placed nowhere":        {`spec: {placement: {group: null}}`, oneOf},
		"placed twice":          {`spec: {placement: {clusters: [a]}}`, oneOf},
		"placed by labels":      {`spec: {placement: {group: null, selector: {matchExpressions: [{key: tier, operator: In, values: [a]}]}}}`, ``},
		"wrong group":           {`spec: {placement: {group: A}}`, badName},
		"empty group":           {`spec: {placement: {group: ""}}`, badName},
		"no clusters":           {`spec: {placement: {group: null, clusters: []}}`, tooFew},
		"wrong cluster":         {`spec: {placement: {group: null, clusters: [a.b]}}`, badName},
		"no subjects":           {`spec: {subjects: []}`, ``},
		"subject: empty":        {`spec: {subjects: [""]}`, "at least 1 chars"},
		"subject: empty token":  {`spec: {subjects: [a..b]}`, badItem},
		"subject: dot":          {`spec: {subjects: [a.]}`, badItem},
		"subject: space":        {`spec: {subjects: [a b]}`, badItem},
		"subject: > inside":     {`spec: {subjects: [a.>.b]}`, badItem},
		"subject: > in a token": {`spec: {subjects: [a>]}`, badItem},
		"subject: too long":     {`spec: {subjects: [` + long(256) + `]}`, "may not be more than 255"},
		"subject: twice":        {`spec: {subjects: [a, a]}`, twice},
		"65 subjects":           {`spec: {subjects: [` + strings.Join(numbered("a", 65), ", ") + `]}`, tooMany},
		"retention":             {`spec: {retention: Forever}`, unknownFor},
		"storage":               {`spec: {storage: Disk}`, unknownFor},
		"discard":               {`spec: {discard: Any}`, unknownFor},
		"onRemoval":             {`spec: {onRemoval: Keep}`, unknownFor},
		"replicas 3":            {`spec: {replicas: 3}`, ``},
		"replicas 2":            {`spec: {replicas: 2}`, unknownFor},
		"maxBytes 0":            {`spec: {maxBytes: 0}`, "maxBytes is at least 1"},
		"maxBytes '0'":          {`spec: {maxBytes: "0"}`, badPattern},
		"maxBytes -1":           {`spec: {maxBytes: -1}`, "maxBytes is at least 1"},
		"maxBytes: unit":        {`spec: {maxBytes: 1GB}`, badPattern},
		"maxBytes: fraction":    {`spec: {maxBytes: 1.5}`, "must be of type integer,string"},
		"maxMessages 0":         {`spec: {maxMessages: 0}`, "greater than or equal to 1"},
		"maxMessages: huge":     {`spec: {maxMessages: 1e30}`, "int64"},
		"perSubject 0":          {`spec: {maxMessagesPerSubject: 0}`, "greater than or equal to 1"},
		"maxAge: days":          {`spec: {maxAge: 7d}`, badPattern},
		"maxAge: number":        {`spec: {maxAge: 60}`, "must be of type string"},
		"maxAge: negative":      {`spec: {maxAge: -1h}`, badPattern},
		"maxAge: zero":          {`spec: {maxAge: 0s}`, "maxAge is at least 100ms"},
		"maxAge: least":         {`spec: {maxAge: 100ms}`, ``},
		"maxAge: longest":       {`spec: {maxAge: 99999h99999h99999h99999h}`, ``},
		"maxAge: too long":      {`spec: {maxAge: 100000h}`, badPattern},
		"window: zero":          {`spec: {duplicateWindow: 0s}`, "duplicateWindow is at least 100ms"},
		"window: above maxAge":  {`spec: {maxAge: 1m, duplicateWindow: 2m}`, "duplicateWindow is at most maxAge"},
		"window: as maxAge":     {`spec: {maxAge: 60s, duplicateWindow: 1m}`, ``},
		"window: words":         {`spec: {duplicateWindow: 1 hour}`, badPattern},
	},
	"Bridge": {
		"as it is":              {``, ``},
		"events, renamed":       {`spec: {rename: [{from: orders.>, to: "remote.{{origin}}.>"}, {from: a.*, to: "b.{{wildcard(1)}}"}]}`, ``},
		"events, any subject":   {`spec: {subjects: [">"]}`, ``},
		"requests":              {`spec: {type: Requests}`, ``},
		"stream":                {stream(`type: Stream, stream: {name: ORDERS, target: ORDERS_ALL, rateLimit: 1024, flow: Paused}`), ``},
		"queue, filtered":       {`spec: {type: Queue, stream: {name: ORDERS}}`, ``},
		"events without":        {`spec: {subjects: null}`, "set subjects (and no stream) for Events and Requests"},
		"events of a stream":    {`spec: {stream: {name: ORDERS}}`, "set subjects (and no stream) for Events and Requests"},
		"requests without":      {`spec: {type: Requests, subjects: null}`, "set subjects (and no stream) for Events and Requests"},
		"requests of a stream":  {`spec: {type: Requests, stream: {name: ORDERS}}`, "set subjects (and no stream) for Events and Requests"},
		"requests, renamed":     {`spec: {type: Requests, rename: [{from: a, to: b}]}`, "rename is for Events, Stream and Queue"},
		"stream without":        {`spec: {type: Stream}`, "set stream for Stream and Queue"},
		"queue without":         {`spec: {type: Queue}`, "set stream for Stream and Queue"},
		"unknown type":          {`spec: {type: Topic}`, unknownFor},
		"no type":               {`spec: {type: null}`, required},
		"no account":            {`spec: {account: null}`, required},
		"wrong account":         {`spec: {account: a.b}`, badName},
		"wrong topology":        {`spec: {topology: A}`, badName},
		"no from":               {`spec: {from: null}`, required},
		"from nowhere":          {`spec: {from: {group: null}}`, oneOf},
		"from twice":            {`spec: {from: {selector: {}}}`, oneOf},
		"no to":                 {`spec: {to: null}`, required},
		"to twice":              {`spec: {to: {clusters: [a]}}`, oneOf},
		"no subjects":           {`spec: {subjects: []}`, tooFew},
		"subject: > inside":     {`spec: {subjects: [">.a"]}`, badItem},
		"subject: empty token":  {`spec: {subjects: [".a"]}`, badItem},
		"subject: tab":          {`spec: {subjects: ["a\tb"]}`, badItem},
		"rename: no from":       {`spec: {rename: [{to: a}]}`, required},
		"rename: wrong from":    {`spec: {rename: [{from: a..b, to: a}]}`, badPattern},
		"rename: empty to":      {`spec: {rename: [{from: a, to: ""}]}`, "at least 1 chars"},
		"rename: wrong to":      {`spec: {rename: [{from: a, to: a..b}]}`, badPattern},
		"rename: > inside":      {`spec: {rename: [{from: a, to: a.>.b}]}`, badPattern},
		"rename: twice":         {`spec: {rename: [{from: a, to: b}, {from: a, to: c}]}`, twice},
		"stream: no name":       {stream(`type: Stream, stream: {}`), required},
		"stream: wrong name":    {stream(`type: Stream, stream: {name: a.b}`), badPattern},
		"stream: wrong target":  {stream(`type: Stream, stream: {name: a, target: "a b"}`), badPattern},
		"stream: rate too low":  {stream(`type: Stream, stream: {name: a, rateLimit: 1023}`), "greater than or equal to 1024"},
		"stream: unknown state": {stream(`type: Stream, stream: {name: a, flow: Stopped}`), unknownFor},
	},
}

func group(s string) string   { return `spec: {groups: [{name: core, clusters: [a], ` + s + `}]}` }
func link(s string) string    { return `spec: {links: [{name: l, ` + s + `}]}` }
func account(s string) string { return `spec: {accounts: [{name: a, ` + s + `}]}` }
func stream(s string) string  { return `spec: {subjects: null, ` + s + `}` }

func numbered(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = prefix + string(rune('a'+i/26)) + string(rune('a'+i%26))
	}
	return out
}

// TestValidation: the API server refuses what one object shows to be wrong, and a
// client can read everything else. One object that the hub could not read would
// stop it from reading any.
func TestValidation(t *testing.T) {
	c := untyped(t, apiservertest.Start(t))
	scheme := c.Scheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	for kind, cases := range validations {
		for name, test := range cases {
			t.Run(kind+"/"+name, func(t *testing.T) {
				o := changed(t, kind, test.patch)
				err := c.Create(t.Context(), o, client.DryRunAll, client.FieldValidation("Strict"))
				check(t, err, test.want)
				if err != nil {
					return
				}
				typed, err := scheme.New(v1alpha1.GroupVersion.WithKind(kind))
				if err != nil {
					t.Fatal(err)
				}
				b, err := json.Marshal(o)
				if err != nil {
					t.Fatal(err)
				}
				if err := json.Unmarshal(b, typed); err != nil {
					t.Errorf("accepted, but cannot be read: %v", err)
				}
			})
		}
	}
}

// TestTransitions: what cannot be changed, and what can.
func TestTransitions(t *testing.T) {
	const (
		account   = "account cannot be changed"
		token     = "a token cannot be changed"
		bridge    = "type and account cannot be changed"
		retention = "retention cannot be changed"
		storage   = "storage cannot be changed"
		name      = "name cannot be changed"
	)
	c := untyped(t, apiservertest.Start(t))
	for label, test := range map[string]struct{ kind, from, to, want string }{
		"token: uses":          {"JoinToken", ``, `spec: {maxUses: 2}`, token},
		"token: labels":        {"JoinToken", ``, `spec: {labels: {a: b}}`, token},
		"token: expiry":        {"JoinToken", ``, `spec: {expiresAt: "2031-01-02T03:04:05Z"}`, token},
		"token: annotation":    {"JoinToken", ``, `metadata: {annotations: {a: b}}`, ``},
		"stream: account":      {"Stream", ``, `spec: {account: other}`, account},
		"stream: storage":      {"Stream", ``, `spec: {storage: Memory}`, storage},
		"stream: retention":    {"Stream", ``, `spec: {retention: Interest}`, retention},
		"stream: name, none":   {"Stream", ``, `spec: {name: other}`, name},
		"stream: name, gone":   {"Stream", `spec: {name: ORDERS}`, `spec: {name: null}`, name},
		"stream: name":         {"Stream", `spec: {name: ORDERS}`, `spec: {name: OTHER}`, name},
		"stream: named before": {"Stream", `spec: {name: ORDERS}`, `spec: {subjects: [a]}`, ``},
		"stream: the rest":     {"Stream", ``, `spec: {topology: t, placement: {group: edge}, subjects: [a], maxBytes: 1Gi, maxAge: 1h, discard: New, onRemoval: Delete}`, ``},
		"bridge: account":      {"Bridge", ``, `spec: {account: other}`, bridge},
		"bridge: type":         {"Bridge", ``, `spec: {type: Requests}`, bridge},
		"bridge: the rest":     {"Bridge", ``, `spec: {topology: t, from: {group: edge}, to: {group: core}, subjects: [a], rename: [{from: a, to: b}]}`, ``},
		"bridge: pause":        {"Bridge", stream(`type: Queue, stream: {name: A}`), `spec: {stream: {flow: Paused}}`, ``},
		"topology: the rest":   {"MessagingTopology", ``, `spec: {groups: [{name: g, selector: {}}], links: null, accounts: null}`, ``},
		"member: endpoints":    {"MemberCluster", ``, `spec: {endpoints: ["a:1"]}`, ``},
	} {
		t.Run(label, func(t *testing.T) {
			o := changed(t, test.kind, test.from)
			o.SetName("transition-" + strings.Trim(strings.Map(func(r rune) rune {
				if r < 'a' || r > 'z' {
					return '-'
				}
				return r
			}, label), "-"))
			if err := c.Create(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Delete(context.Background(), o) }()
			merge(o.Object, parse(t, test.to))
			check(t, c.Update(t.Context(), o), test.want)
		})
	}
}

// TestUnknownField: with the validation that kubectl asks for, a misspelt field is
// an error.
func TestUnknownField(t *testing.T) {
	c := untyped(t, apiservertest.Start(t))
	o := changed(t, "Bridge", `spec: {subject: [a]}`)
	check(t, c.Create(t.Context(), o, client.DryRunAll, client.FieldValidation("Strict")), `unknown field "spec.subject"`)
}

func untyped(t *testing.T, cfg *rest.Config) client.Client {
	t.Helper()
	c, err := client.New(cfg, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func check(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case want != "" && err == nil:
		t.Errorf("accepted, want %q", want)
	case want != "" && !strings.Contains(err.Error(), want):
		t.Errorf("refused with %v\nwant %q", err, want)
	}
}

func parse(t *testing.T, s string) map[string]any {
	t.Helper()
	o := map[string]any{}
	if err := yaml.Unmarshal([]byte(s), &o); err != nil {
		t.Fatalf("%v in\n%s", err, s)
	}
	return o
}

func changed(t *testing.T, kind, patch string) *unstructured.Unstructured {
	t.Helper()
	o := parse(t, manifests[kind])
	merge(o, parse(t, patch))
	o["apiVersion"], o["kind"] = v1alpha1.GroupVersion.String(), kind
	return &unstructured.Unstructured{Object: o}
}

// merge is a JSON merge patch.
func merge(o, patch map[string]any) {
	for k, v := range patch {
		into, ok1 := o[k].(map[string]any)
		from, ok2 := v.(map[string]any)
		if ok1 && ok2 {
			merge(into, from)
		} else {
			o[k] = v
		}
	}
	maps.DeleteFunc(o, func(_ string, v any) bool { return v == nil })
}
