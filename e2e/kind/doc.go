// Package kind tests a federation on real Kubernetes clusters: charts, images,
// brokers of several servers, nodes that die and networks that part. `make e2e`
// runs it; without the build tag e2e there is nothing in it. The clusters come
// from package lab.
package kind
